"""What ``draw``, ``edit`` and ``demo`` share: starting a daemon, one call, its live preview, and the outcome.

They are hosts like any other: everything they do goes through the protocol.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from locara_protocol.client import ProtocolViolationError, RemoteError, Sidecar, SidecarGoneError
from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.daemon_log import DaemonLog
from locara_sidecar.cli.output.guard import CANCELLED, advice, reason, say
from locara_sidecar.machine.processes import interpreter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""File extensions and the formats written for them."""
_PHASES = {
    "queued": "waiting",
    "loading": "loading the model",
    "encoding": "reading the prompt",
    "denoising": "drawing",
    "decoding": "finishing",
    "saving": "saving",
}
_FLAGS = {
    "options.seed": "--seed",
    "options.steps": "--steps",
    "options.model": "--model",
    "options.negativePrompt": "--negative",
    "options.width": "--size",
    "options.height": "--size",
    "options.guidance": "--guidance",
    "options.count": "--count",
    "options.strength": "--strength",
    "options.quantization": "--quantization",
    "options.scheduler": "--scheduler",
    "options.output.path": "--out",
    "options.output.mimeType": "--out",
    "image": "--image",
    "images": "--image",
    "mask": "--mask",
    "prompt": "the prompt",
}


@dataclass
class Request:
    """One call.

    :param models: those that the call may use; the first installed one if ``options`` names none.
    :param folder: where the pictures are saved.
    :param pictures: files to edit, in the user's order; ``mask``: where the first may change.
    :param transcript: a file for every line sent and received.
    :param preview: how the terminal shows pictures, as for :class:`Console`.
    """

    prompt: str
    models: Sequence[str]
    folder: Path
    options: dict[str, Any]
    serve: Sequence[str] = ()
    pictures: Sequence[Path] = ()
    mask: Path | None = None
    transcript: Path | None = None
    preview: str = "auto"

    @property
    def method(self) -> str:
        """The wire method that it calls."""
        return "image.edit" if self.pictures else "image.generate"


def place(out: Path) -> tuple[Path, dict[str, Any] | None]:
    """Return a folder to save in, and the file's name and type if ``out`` names a file.

    :raises ValueError: with a sentence for the user, for a file of another type.
    """
    out = out.absolute()
    suffix = out.suffix.lower()
    if out.is_dir() or not any(map(str.isalpha, suffix)):  # no file's ending is a number, but a folder may have a date
        return out, None
    if suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"--out must be a folder, or a file that ends in one of {kinds}, not {out.name}.")
    return out.parent, {"path": out.name, "mimeType": SUFFIXES[suffix]}


def manifest(models: Sequence[str], *, edits: bool = False) -> dict[str, Any]:
    """Return the smallest ``locara.json`` that may draw with ``models`` and save in ``user-folder``; with ``edits``
    also edit pictures that the user names.
    """
    modalities = ["image-to-image", "image-text-to-image"] if edits else ["text-to-image"]
    files = {"user-folder": "write", **({"user-selected": "read"} if edits else {})}
    return {
        "schema": "locara/v1",
        "name": "demo",
        "publisher": "locara",
        "version": "1.0.0",
        "modalities": modalities,
        "capabilities": {"models": list(models), "fs": files, "net": False},
    }


def command(options: argparse.Namespace) -> list[str]:
    """Return the daemon's flags that are also flags of the command."""
    words = ["--engine", options.engine]
    if options.catalogue is not None:
        words += ["--catalogue", str(options.catalogue)]
    if getattr(options, "cache_dir", None) is not None:
        words += ["--cache-dir", options.cache_dir]
    return words


def run(request: Request, *, show: bool = False) -> int:
    """Run a request; return 0 if every picture was saved, 1 if not, 2 if it cannot be made, 130 if cancelled.

    :param show: open the pictures in the system's viewer.
    """
    console = Console(request.preview)
    if (what := unsendable(request)) is not None:
        return _stop(console, f"{what} is not valid UTF-8; texts and names must be.", status=2)
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _stop(console, f"--out needs a writable folder: {reason(error)}")
    console.look()
    with contextlib.ExitStack() as stack:
        record: Callable[[str, bytes], None] | None = None
        log = stack.enter_context(DaemonLog())
        if request.transcript is not None:
            record = partial(_note, stack.enter_context(request.transcript.open("w", encoding="utf-8")))
        words = interpreter.module("locara_sidecar", "serve", "--log-level", "warning", *request.serve)
        try:
            sidecar = stack.enter_context(Sidecar(words, own_group=True, record=record, stderr=log.fd))
            result = _ask(console, sidecar, request)
        except RemoteError as error:
            for image in error.data.get("images", []):  # finished before it was cancelled
                console.line(image["path"])
            model = request.options.get("model") or (request.models[0] if len(request.models) == 1 else None)
            more = advice(error.kind, error.data, model) or log.words(error.kind)
            status = CANCELLED if error.kind == "RequestCancelled" else 1
            return _stop(console, in_flags(error, request.pictures), more, status=status)
        except (SidecarGoneError, ProtocolViolationError) as error:
            return _stop(console, str(error), log.words(None))
    _report(console, result)
    return _show(console, [image["path"] for image in result["images"]]) if show else 0


def unsendable(request: Request) -> str | None:
    """Return the part of a request that is not UTF-8, by the user's name for it; None if all of it can be sent.

    Python keeps the odd bytes of an argument as lone surrogates, which no line of the contract can contain.
    """
    output: dict[str, Any] = request.options.get("output") or {}
    named = [("The prompt", request.prompt)]
    named += [(_FLAGS.get(f"options.{name}", name), value) for name, value in request.options.items()]
    named += [("--model", model) for model in request.models]
    named += [("--out", os.fspath(request.folder)), ("--out", output.get("path"))]
    named += [("--image", os.fspath(path)) for path in request.pictures]
    named += [("--mask", None if request.mask is None else os.fspath(request.mask))]
    return next((what for what, value in named if isinstance(value, str) and not _is_utf8(value)), None)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_flags(error: RemoteError, pictures: Sequence[Path] = ()) -> str:
    """Word an error for the command line, naming the flag it is about, if any.

    :param pictures: the files that ``images`` of the call are.
    """
    message = error.message
    for index, file in enumerate(pictures):
        message = message.replace(f"images[{index}]", file.name)
    for member, flag in _FLAGS.items():
        message = message.replace(f"`$.{member}`", flag)
    named = str(error.data.get("path", "")).removeprefix("$.").partition("[")[0]
    flag = next((flag for member, flag in _FLAGS.items() if f"{named}.".startswith(f"{member}.")), None)
    return message if flag is None or flag in message else f"{message} ({flag})"


def _ask(console: Console, sidecar: Sidecar, request: Request) -> dict[str, Any]:
    edits = bool(request.pictures)
    sidecar.initialize(manifest=manifest(request.models, edits=edits), grants={"user-folder": str(request.folder)})
    params: dict[str, Any] = {"prompt": request.prompt, "options": request.options}
    picked = [_picked(sidecar, path) for path in request.pictures]
    if picked:
        params |= {"image": picked[0]} if len(picked) == 1 else {"images": picked}
    if request.mask is not None:
        params["mask"] = _picked(sidecar, request.mask)
    console.line(f"“{request.prompt}”")
    return _draw(console, sidecar, request.method, params)


def _picked(sidecar: Sidecar, path: Path) -> dict[str, str]:
    return {"handle": sidecar.call("host.pickFile", {"path": str(path), "access": "read"})["handle"]}


def _stop(console: Console, sentence: str, more: str | None = None, *, status: int = 1) -> int:
    say(console, sentence)
    if more is not None:
        console.error(more)
    return status


def _note(file: TextIO, direction: str, line: bytes) -> None:
    file.write(f"{direction} {line.decode(errors='replace')}\n")


def _draw(console: Console, sidecar: Sidecar, method: str, params: dict[str, Any]) -> dict[str, Any]:
    call = sidecar.start(method, params, stream=True)
    picture = None
    try:
        for step in call.messages():
            if "preview" in step:
                picture = _decode(base64.b64decode(step["preview"]["data"]), step["preview"]) or picture
            console.live(picture, step["progress"], _status(step))
        result = call.result()
    except KeyboardInterrupt:
        console.restore()
        call.cancel()
        return call.result()  # raises RequestCancelled, unless the picture has just been finished
    done = f"done in {result['timings']['totalMs'] / 1000:.1f} s"
    last = result["images"][-1]
    console.live(_decode(Path(last["path"]).read_bytes(), last) or picture, 1.0, done)
    console.settle()
    return result


def _status(step: dict[str, Any]) -> str:
    words = [_PHASES.get(step["phase"], str(step["phase"]))]
    if step["images"] > 1:
        words.append(f"picture {step['image']}/{step['images']}")
    if step["phase"] == "denoising":
        words.append(f"step {step['step']}/{step['steps']}")
    if "etaMs" in step:
        words.append(f"{step['etaMs'] / 1000:.1f} s left")
    return "  ".join(words)


def _decode(data: bytes, told: dict[str, Any]) -> Any:
    """Decode a picture to show. None if it is invalid, or has another type or size than ``told``: a hijacked engine
    could have made it.
    """
    from PIL import Image

    kind = told["mimeType"].removeprefix("image/")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            return image.convert("RGB") if image.size == (told["width"], told["height"]) else None
    except (OSError, ValueError, SyntaxError, KeyError, MemoryError, Image.DecompressionBombError):
        return None


def _report(console: Console, result: dict[str, Any]) -> None:
    model, times = result["model"], result["timings"]
    paths = [image["path"] for image in result["images"]]
    console.line("\n".join(paths))
    first, seeds = result["images"][0], [image["seed"] for image in result["images"]]
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    console.line(
        f"{first['width']} × {first['height']}, {seed}, {model['id']} on {model['engine']} ({model['device']})"
    )
    parts = {"load": "loadMs", "encode": "encodeMs", "draw": "denoiseMs", "decode": "decodeMs"}
    console.line(", ".join(f"{name} {times[member] / 1000:.2f} s" for name, member in parts.items()))
    for warning in result["warnings"]:
        console.line(f"note: {warning['message']}")


def _show(console: Console, paths: list[str]) -> int:
    """Open files in the system's picture viewer; return 1 if there is none."""
    try:
        for path in paths:
            if sys.platform == "win32":
                os.startfile(path)
            else:
                subprocess.run(["open" if sys.platform == "darwin" else "xdg-open", path], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = reason(error) if isinstance(error, OSError) else f"{error.cmd[0]} ended with status {error.returncode}"
        return _stop(console, f"The picture was saved but could not be opened: {why}")
    return 0
