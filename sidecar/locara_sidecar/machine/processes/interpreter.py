"""The command line of a further process of this interpreter, which is started as this one was."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import locara_protocol
import locara_sidecar


def module(name: str, *arguments: str) -> list[str]:
    """``python -m name``, for our own commands."""
    return [sys.executable, *_own_flags(), "-m", name, *arguments]


def code(text: str, *arguments: str) -> list[str]:
    """``python -c text``. The working folder stays off ``sys.path``; the places that our own packages came from are
    passed along, last in line, so that ``text`` finds them in ``sys.argv`` however they were installed."""
    roots = [str(Path(package.__file__ or "").resolve().parent.parent) for package in (locara_sidecar, locara_protocol)]
    return [sys.executable, *(_own_flags() or ["-P"]), "-c", text, *arguments, *roots]


def _own_flags() -> list[str]:
    """What an isolated interpreter (``-I``, as in the folder that an app ships) must be told again.

    It reads no variable, so none carries this over; and one that a host has set for a Python of its own
    (``PYTHONHOME``) would keep our processes from starting if they did read it.
    """
    if not sys.flags.isolated:
        return []
    utf8 = ["-X", "utf8"] if sys.flags.utf8_mode else []
    bytecode = ["-B"] if sys.dont_write_bytecode else []
    return ["-I", *utf8, *bytecode]


def heeded(environ: dict[str, str]) -> dict[str, str]:
    """Variables for a child without those that this interpreter was told to ignore: a library may start a Python."""
    if not sys.flags.ignore_environment:
        return environ
    return {name: value for name, value in environ.items() if not name.upper().startswith("PYTHON")}


def again_in_utf8() -> None:
    """Replace this process by itself in UTF-8 mode; returns only where the system does not let it."""
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
