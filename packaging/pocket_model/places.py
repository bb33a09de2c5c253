"""Where downloads, pictures and the training state are kept: in the user's cache folder, never in the repository."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The platform's cache folder for making this model, e.g. ``~/.cache/locara-pocket`` on Linux."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "locara-pocket"


def parser(about: str | None) -> argparse.ArgumentParser:
    """A command's parser, with ``--work``, the folder of downloads, pictures and checkpoints.

    :param about: the module's docstring, shown as it is written.
    """
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", type=Path, default=cache_folder(), help="default: %(default)s")
    return made
