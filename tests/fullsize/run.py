"""A full-size model through the daemon, as a host sees it: whether it fits, and how long it takes.

    python -m fullsize.run MODEL [--size N] [--steps N] [--quantization Q] [--folder DIR] [--keep]

Writes the true configuration with random weights (``models.py``), draws one picture of nonsense with it, and one more
with the same prompt, and prints the plan that was chosen, the engine's peak as the operating system counts it and the
times. The folder takes 17 to 35 GB and is deleted at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from locara_protocol.client import Sidecar
from support.measuring import Row, manifest, show
from support.synthetic_models import PARTS, write_model

GB = 1_000_000_000
SETTINGS: dict[str, tuple[int, int, str]] = {"flux.1-schnell": (256, 4, "8bit")}
"""Size, steps and quantization unless the command line gives them; otherwise 512, 2 and ``auto``."""


def draw(sidecar: Sidecar, options: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """One picture: its result, and the seconds between its steps."""
    call = sidecar.start(
        "image.generate", {"prompt": "a red circle on the blue square", "options": options}, stream=True
    )
    marks: dict[int, float] = {}  # steps done, and when
    for message in call.messages():
        if message["phase"] == "denoising":
            marks.setdefault(message["step"], time.monotonic())
        print(f"\r{message['phase']:10} {message['progress']:6.1%}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    times = list(marks.values())
    return call.result(), [later - earlier for earlier, later in itertools.pairwise(times)]


def plans_in(errors: IO[bytes]) -> list[str]:
    """The memory plans that the engine logged."""
    errors.seek(0)
    found: list[str] = []
    for line in errors.read().decode(errors="replace").splitlines():
        try:
            text = str(json.loads(line).get("msg", ""))
        except ValueError:
            continue
        if text.startswith("memory plan: "):
            found.append(text.removeprefix("memory plan: "))
    return found


def measure(folder: Path, model: str, options: dict[str, Any]) -> int:
    command = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", "torch", "--log-level", "info"]
    command += ["--catalogue", str(folder), "--cache-dir", str(folder / "cache"), "--stall-timeout", "900"]
    out = folder / "out"
    out.mkdir()
    known = f"{model}-synthetic"
    with tempfile.TemporaryFile() as errors:
        with Sidecar(command, stderr=errors) as sidecar:
            sidecar.initialize(manifest=manifest(known), grants={"user-folder": str(out)})
            started = time.monotonic()
            first, steps = draw(sidecar, options | {"model": known})
            took = time.monotonic() - started
            again, _ = draw(sidecar, options | {"model": known})
        for plan in plans_in(errors):
            print(plan)
    used = first["model"]
    print(f"{model} on {used['device']}, {used['precision']}, {used['quantization']}: {options}")
    timings = first["timings"]
    rows = [
        Row("engine's peak footprint (VmHWM)", again["peakMemoryBytes"] / GB, "GB", 24 * 1.0737),
        Row("loading", timings["loadMs"] / 1000, "s", None),
        Row("encoding", timings["encodeMs"] / 1000, "s", None),
        Row("a step", sorted(steps)[len(steps) // 2] if steps else timings["denoiseMs"] / 1000, "s", None),
        Row("decoding", timings["decodeMs"] / 1000, "s", None),
        Row("the call", took, "s", None),
        Row("loading for the same prompt again", again["timings"]["loadMs"] / 1000, "s", None),
        Row("the call with the same prompt again", again["timings"]["totalMs"] / 1000, "s", None),
    ]
    return show(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=PARTS)
    parser.add_argument("--size", type=int, help="pixels of a side")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--quantization", choices=("auto", "none", "8bit", "4bit"))
    parser.add_argument("--folder", type=Path, help="an empty or new folder; a temporary one otherwise")
    parser.add_argument("--keep", action="store_true", help="leave the folder; a folder that has the model is used")
    options = parser.parse_args()
    size, steps, quantization = SETTINGS.get(options.model, (512, 2, "auto"))
    wanted = {
        "width": options.size or size,
        "height": options.size or size,
        "steps": options.steps or steps,
        "quantization": options.quantization or quantization,
        "seed": 1,
        "preview": {"mode": "off"},
    }
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fullsize-"))
    try:
        if not (folder / f"{options.model}.json").is_file():
            started = time.monotonic()
            written = write_model(folder, options.model)
            print(f"{written / GB:.1f} GB written in {time.monotonic() - started:.0f} s", file=sys.stderr)
        return measure(folder, options.model, wanted)
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
