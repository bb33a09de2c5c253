"""Faults on demand for the fake engine, as listed in its runtime's docstring."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time

from locara_sidecar.ipc.errors import EngineError

_WORD = re.compile(r"fake:([a-z]+)(?:=([a-z0-9.]+))?")


def parse(text: str) -> dict[str, str]:
    """Return the words ``fake:NAME`` and ``fake:NAME=VALUE`` in ``text``."""
    return dict(_WORD.findall(text))


def strike(faults: dict[str, str], place: str) -> None:
    """Trigger whatever ``faults`` asks for at ``place``: the name of a phase, or ``start``."""
    for name, where in faults.items():
        if where == place and name in _DEADLY:
            _DEADLY[name]()


def spoil(faults: dict[str, str], prompt: str) -> None:
    """Fail the job in one of the ways that leave the engine alive.

    :raises EngineError: for ``nan``.
    :raises MemoryError: for ``oom``.
    :raises RuntimeError: for ``error``.
    """
    if "nan" in faults:
        raise EngineError("InvalidOutput", "The model produced numbers that are not an image (NaN).")
    if "oom" in faults:
        raise MemoryError
    if "error" in faults:
        raise RuntimeError(f"an error that quotes its input: {prompt}")


def shout() -> None:
    """Print to both descriptors from Python, from C and, where allowed, from a child process."""
    noise = "engine noise"
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.write(fd, f"{noise} python {name}\n".encode())
    print(f"{noise} print", flush=True)  # noqa: T201
    print(f"{noise} print", file=sys.stderr, flush=True)  # noqa: T201
    library = ctypes.CDLL(None)
    library.puts(f"{noise} c".encode())
    library.fflush(None)
    with contextlib.suppress(PermissionError):  # in a sandbox
        subprocess.run(["/bin/sh", "-c", f"echo {noise} child; echo {noise} child >&2"], check=False)


def _exit() -> None:
    os._exit(70)


def _abort() -> None:
    os.abort()


def _kill() -> None:
    assert sys.platform != "win32"
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    """Hang with the interpreter lock held, so that no thread of this process can run any more."""
    while True:
        with contextlib.suppress(AttributeError):
            ctypes.PyDLL(None).sleep(1_000_000)
        time.sleep(1)


def _sleep() -> None:
    """Hang with the interpreter lock free, and never check the cancel flag."""
    while True:
        time.sleep(1_000_000)


_DEADLY = {"crash": _exit, "abort": _abort, "kill": _kill, "segv": _segfault, "hang": _hang, "sleep": _sleep}
