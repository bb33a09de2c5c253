"""Records real exchanges with the embedded model into protocol/README.md, images shortened (``make transcript``)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from locara_protocol.client import Sidecar

README = Path(__file__).resolve().parents[1] / "protocol" / "README.md"
RED = "a large red circle in the center of a blue background"
GREEN = "a large green circle in the center of a blue background"


def main() -> None:
    """Draw and edit, and put the lines of the wire between their marks."""
    _write("transcript", _drawing())
    _write("edit", _editing())


def _drawing() -> list[str]:
    """A whole session: the demo's."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "lines"
        words = [
            "demo",
            "a large yellow star in the center of a blue background",
            "--steps",
            "4",
            "--seed",
            "7",
            "--out",
        ]
        words += [f"{folder}/Pictures", "--transcript", str(log)]
        subprocess.run([sys.executable, "-m", "locara_sidecar", *words], check=True, stdout=subprocess.DEVNULL)
        return [_shown(line.replace(folder, "/Users/a")) for line in log.read_text().splitlines()]


def _editing() -> list[str]:
    """One call of image.edit through a mask, without messages."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "Pictures"
        pictures.mkdir()
        mask = Image.new("L", (128, 128))
        mask.paste(255, (10, 10, 54, 54))
        mask.save(pictures / "mask.png")

        def record(direction: str, line: bytes) -> None:
            lines.append(_shown(f"{direction} {line.decode()}".replace(folder, "/Users/a")))

        with Sidecar([sys.executable, "-m", "locara_sidecar", "serve"], record=record) as sidecar:
            sidecar.initialize(manifest=_MANIFEST, grants={"user-folder": str(pictures)})
            sidecar.call("image.generate", {"prompt": RED, "options": {"seed": 1, "output": {"path": "red.png"}}})
            lines.clear()
            edit: dict[str, Any] = {"prompt": GREEN}
            edit |= {name: {"root": "user-folder", "path": f"{file}.png"} for name, file in _FILES.items()}
            options = {"strength": 0.9, "seed": 3, "output": {"path": "green.png"}}
            sidecar.call("image.edit", edit | {"options": options})
            return lines[:2]


_FILES = {"image": "red", "mask": "mask"}
_MANIFEST = {
    "schema": "locara/v1",
    "name": "demo",
    "publisher": "locara",
    "version": "1.0.0",
    "modalities": ["text-to-image", "image-to-image"],
    "capabilities": {"models": [{"id": "pocket"}], "fs": {"user-folder": "read-write"}},
}


def _write(mark: str, lines: list[str]) -> None:
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, rest = README.read_text().split(begin)
    _, after = rest.split(end)
    README.write_text(before + begin + "\n".join(["", "```text", *lines, "```", ""]) + end + after)


def _shown(line: str) -> str:
    direction, _, message = line.partition(" ")
    value = _shortened(json.loads(message))
    return ("→ " if direction == "send" else "← ") + json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shortened(value: Any) -> Any:
    """Return the line with base64 cut to its beginning, and nothing else changed."""
    if isinstance(value, dict):
        return {name: _shortened(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shortened(member) for member in value]
    if isinstance(value, str) and len(value) > 100 and re.fullmatch(r"[A-Za-z0-9+/]+=*", value):
        return f"{value[:16]}… ({len(value)} characters)"
    return value


if __name__ == "__main__":
    main()
