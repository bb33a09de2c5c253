"""Command lines that run Python code in a new process, with the same interpreter and settings as this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import locara_protocol
import locara_sidecar


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line for ``python -m name``, for our own modules."""
    return [sys.executable, *_own_flags(), "-m", name, *arguments]


def code(text: str, *arguments: str) -> list[str]:
    """Return the command line for ``python -c text``. The working directory stays off ``sys.path``; the folders that
    our own packages came from are the last arguments, so that ``text`` finds them in ``sys.argv``, however they were
    installed.
    """
    roots = [str(Path(package.__file__ or "").resolve().parent.parent) for package in (locara_sidecar, locara_protocol)]
    return [sys.executable, *(_own_flags() or ["-P"]), "-c", text, *arguments, *roots]


def _own_flags() -> list[str]:
    """Return the flags that an isolated interpreter (``-I``, as in the folder that an app ships) needs again.

    It reads no environment variables, so none can pass the flags on. And it must stay isolated: variables that a host
    has set for its own Python (``PYTHONHOME``) could keep our processes from starting.
    """
    if not sys.flags.isolated:
        return []
    utf8 = ["-X", "utf8"] if sys.flags.utf8_mode else []
    bytecode = ["-B"] if sys.dont_write_bytecode else []
    return ["-I", *utf8, *bytecode]


def heeded(environ: dict[str, str]) -> dict[str, str]:
    """Return the environment for a child, without the variables that this interpreter was told to ignore: a library in
    the child may start a Python.
    """
    if not sys.flags.ignore_environment:
        return environ
    return {name: value for name, value in environ.items() if not name.upper().startswith("PYTHON")}


def again_in_utf8() -> None:
    """Restart this process in UTF-8 mode; returns only if the system does not allow that."""
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
