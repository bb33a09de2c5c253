"""Records a real exchange with the embedded model into protocol/README.md, images shortened (``make transcript``)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "protocol" / "README.md"
BEGIN, END = "<!-- transcript:begin -->", "<!-- transcript:end -->"


def main() -> None:
    """Spawn the demo, read what went over the wire, put it between the marks."""
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
        lines = [_shown(line.replace(folder, "/Users/a")) for line in log.read_text().splitlines()]
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    block = "\n".join(["", "```text", *lines, "```", ""])
    README.write_text(before + BEGIN + block + END + after)


def _shown(line: str) -> str:
    direction, _, message = line.partition(" ")
    value = _shortened(json.loads(message))
    return ("→ " if direction == "send" else "← ") + json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shortened(value: Any) -> Any:
    """Base64 cut to its beginning; all else as it is."""
    if isinstance(value, dict):
        return {name: _shortened(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shortened(member) for member in value]
    if isinstance(value, str) and len(value) > 100 and re.fullmatch(r"[A-Za-z0-9+/]+=*", value):
        return f"{value[:16]}… ({len(value)} characters)"
    return value


if __name__ == "__main__":
    main()
