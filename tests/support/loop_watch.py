"""Reports what holds up an event loop: callbacks that use the file system, sleep, wait for a lock or compute for long.

``python -m support.loop_watch NOTES serve …`` runs the daemon under it.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import asyncio.events
import functools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_AUDITED = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink"}
    | {"os.truncate", "os.chmod", "os.utime", "fcntl.flock", "fcntl.lockf", "subprocess.Popen"}
)
_PATCHED = ("stat", "lstat", "access", "readlink", "statvfs", "fsync")  # these raise no audit event
LONG = 0.025
"""Seconds of processor time, which other programs do not change much, that a callback may take. Measured: 1.6 ms at
most, and 7 ms for the first call of a kind, whose parameters' types are looked through then.
"""
_HERE = os.path.abspath(__file__)


def install(note: Callable[[str], object]) -> None:
    """Install the watch for the rest of the process.

    :param note: called for each call, with the places that it was made from, the innermost first.
    """
    state = threading.local()
    run = asyncio.events.Handle._run

    def watched(handle: asyncio.Handle) -> None:
        state.inside = True
        began = time.thread_time()
        try:
            run(handle)
        finally:
            state.inside = False
            if (took := time.thread_time() - began) > LONG:
                note(f"{took * 1000:.1f} ms of computing in {handle!r}")

    asyncio.events.Handle._run = watched

    def told(what: str, path: object) -> None:
        if getattr(state, "inside", False):
            state.inside = False  # what follows is our own code
            try:
                note(f"{what} {path!r} {_places()}")
            finally:
                state.inside = True

    sys.addaudithook(lambda event, args: told(event, args[0]) if event in _AUDITED else None)
    for module, names in ((os, _PATCHED), (time, ("sleep",))):
        for name in names:
            setattr(module, name, _telling(f"{module.__name__}.{name}", getattr(module, name), told))


def _telling(name: str, function: Callable[..., Any], told: Callable[[str, object], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def telling(*args: Any, **named: Any) -> Any:
        told(name, args[0] if args else None)
        return function(*args, **named)

    return telling


def _places() -> str:
    places, frame = [], sys._getframe(1)
    while frame is not None and len(places) < 12:
        if frame.f_code.co_filename != _HERE:
            file = "/".join(frame.f_code.co_filename.split("/")[-2:])
            places.append(f"{file}:{frame.f_lineno}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(places)


if __name__ == "__main__":
    notes = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    install(lambda line: os.write(notes, line.encode() + b"\n"))
    from locara_sidecar.__main__ import main

    main()
