"""``locara-sidecar demo``: what a host does, in one page. Spawns the daemon, asks for a picture, shows it appear."""

from __future__ import annotations

import base64
import contextlib
import io
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from locara_protocol.client import ProtocolViolation, RemoteError, Sidecar, SidecarGone
from locara_sidecar.cli.console import Console, bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_PHASES = {
    "queued": "waiting",
    "loading": "loading the model",
    "encoding": "reading the prompt",
    "denoising": "drawing",
    "decoding": "finishing",
    "saving": "saving",
}


def manifest(model: str) -> dict[str, Any]:
    """The smallest ``locara.json`` that may draw with ``model`` and save under ``user-folder``."""
    return {
        "schema": "locara/v1",
        "name": "demo",
        "publisher": "locara",
        "version": "1.0.0",
        "modalities": ["text-to-image"],
        "capabilities": {"models": [{"id": model}], "fs": {"user-folder": "write"}, "net": False},
    }


def command(options: argparse.Namespace) -> list[str]:
    """The daemon's command line, as a host would spawn it."""
    words = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", options.engine, "--log-level", "warning"]
    if options.catalogue is not None:
        words += ["--catalogue", str(options.catalogue)]
    return words


def run(options: argparse.Namespace) -> int:
    """Draw ``options.prompt``; returns 0 when a picture was saved, 1 when not, 130 when cancelled."""
    console = Console()
    folder: Path = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "model": options.model,
        "seed": options.seed,
        "steps": options.steps,
        "negativePrompt": options.negative,
    }
    asked = {name: value for name, value in asked.items() if value not in (None, "")}
    with contextlib.ExitStack() as stack:
        record: Callable[[str, bytes], None] | None = None
        if options.transcript is not None:
            record = partial(_note, stack.enter_context(options.transcript.open("w", encoding="utf-8")))

        try:
            sidecar = stack.enter_context(Sidecar(command(options), record=record))
            sidecar.initialize(manifest=manifest(options.model), grants={"user-folder": str(folder)})
            console.line(f"“{options.prompt}”")
            result = _draw(console, sidecar, {"prompt": options.prompt, "options": asked})
        except RemoteError as error:
            console.settle()
            console.error(f"locara-sidecar: {error.message}")
            return 130 if error.kind == "RequestCancelled" else 1
        except (SidecarGone, ProtocolViolation) as error:
            console.settle()
            console.error(f"locara-sidecar: {error}")
            return 1
    _report(console, result)
    return 0


def _note(file: TextIO, direction: str, line: bytes) -> None:
    file.write(f"{direction} {line.decode(errors='replace')}\n")


def _draw(console: Console, sidecar: Sidecar, params: dict[str, Any]) -> dict[str, Any]:
    call = sidecar.start("image.generate", params, stream=True)
    picture = None
    try:
        for step in call.messages():
            if "preview" in step:
                picture = _decode(base64.b64decode(step["preview"]["data"]))
            console.live(picture, _status(step))
        result = call.result()
    except KeyboardInterrupt:
        call.cancel()
        return call.result()  # raises RequestCancelled, unless the picture was just finished
    console.live(_decode(Path(result["images"][0]["path"]).read_bytes()), _done(result))
    console.settle()
    return result


def _status(step: dict[str, Any]) -> str:
    words = [bar(step["progress"]), f"{step['progress'] * 100:3.0f} %", _PHASES.get(step["phase"], str(step["phase"]))]
    if step["phase"] == "denoising":
        words.append(f"step {step['step']}/{step['steps']}")
    if "etaMs" in step:
        words.append(f"{step['etaMs'] / 1000:.1f} s left")
    return "  ".join(words)


def _done(result: dict[str, Any]) -> str:
    return f"{bar(1)}  100 %  done in {result['timings']['totalMs'] / 1000:.1f} s"


def _decode(data: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _report(console: Console, result: dict[str, Any]) -> None:
    image, model, times = result["images"][0], result["model"], result["timings"]
    console.line(image["path"])
    console.line(
        f"{image['width']} × {image['height']}, seed {image['seed']}, {model['id']} on {model['engine']} "
        f"({model['device']}); load {times['loadMs']} ms, encode {times['encodeMs']} ms, "
        f"draw {times['denoiseMs']} ms, decode {times['decodeMs']} ms"
    )
    for warning in result["warnings"]:
        console.line(f"note: {warning['message']}")
