"""Deliberately broken implementations. Each stands between a host and a real implementation and breaks one promise.

A lie is a class in one of the modules here; :func:`command` runs one. They use the standard library only, so that they
start quickly.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from support.liar.base import Asked, AskedInFolder, Changing, Drawing, Honest, OpensWithAnother, Renamed

_MODULES = ("base", "wire", "session", "drawing", "edits", "handed", "rights", "ending", "telling", "details")
_FORMS = (Asked, AskedInFolder, Changing, Drawing, OpensWithAnother, Renamed)
LIES = {
    name: kind
    for module in _MODULES
    for name, kind in vars(importlib.import_module(f"support.liar.{module}")).items()
    if isinstance(kind, type) and issubclass(kind, Honest) and kind not in _FORMS
}


def command(lie: str, *spawned: str) -> list[str]:
    """Return the command to spawn instead of ``spawned``."""
    folder = str(Path(__file__).resolve().parents[2])
    start = f"import sys; sys.path.insert(0, {folder!r}); from support.liar import main; main()"
    return [sys.executable, "-S", "-c", start, lie, "--", *spawned]


def main() -> None:
    """Run the lie that the command line names."""
    at = sys.argv.index("--")
    LIES[sys.argv[1]](sys.argv[at + 1 :]).run()
