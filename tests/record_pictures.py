"""Draws README.md's pictures with the embedded model (``make pictures``): one picture appearing, and several drawn."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from locara_protocol.client import Sidecar
from locara_sidecar.cli.commands.drawing import manifest

FOLDER = Path(__file__).resolve().parents[1] / ".github"
_STEPS = (1, 2, 3, 6, 12)
_PROMPT = "a smiling sun on a purple background"
_SHEET = (
    "a cat",
    "a rocket in 3d style",
    "a slice of pizza, flat",
    "a house on green",
    "a large red heart",
)
_SIDE, _GAP = 160, 12


def main() -> None:
    """Write ``appearing.png`` and ``drawn.png``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Sidecar([sys.executable, "-m", "locara_sidecar", "serve", "--log-level", "error"]) as sidecar,
    ):
        sidecar.initialize(manifest=manifest(["pocket"]), grants={"user-folder": folder})
        seen, last = _draw(sidecar, _PROMPT, 7)
        _row([*(seen[step] for step in _STEPS[:-1]), last]).save(FOLDER / "appearing.png", optimize=True)
        _row([_draw(sidecar, prompt, 1)[1] for prompt in _SHEET]).save(FOLDER / "drawn.png", optimize=True)


def _draw(sidecar: Sidecar, prompt: str, seed: int) -> tuple[dict[int, Image.Image], Image.Image]:
    """Return the previews by step, and the picture."""
    options = {"model": "pocket", "seed": seed, "steps": _STEPS[-1], "preview": {"mode": "full", "maxBytes": 40_960}}
    call = sidecar.start("image.generate", {"prompt": prompt, "options": options}, stream=True)
    seen = {
        step["step"]: Image.open(io.BytesIO(base64.b64decode(step["preview"]["data"]))).convert("RGB")
        for step in call.messages()
        if "preview" in step
    }
    with Image.open(call.result()["images"][0]["path"]) as picture:
        return seen, picture.convert("RGB")


def _row(pictures: list[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (len(pictures) * (_SIDE + _GAP) - _GAP, _SIDE), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (place * (_SIDE + _GAP), 0))
    return row


if __name__ == "__main__":
    main()
