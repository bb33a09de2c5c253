"""Reports what holds up an event loop: callbacks that use the file system, start a process, import a module, sleep or
compute for long.

``python -m support.loop_watch calls NOTES serve …`` runs the daemon and notes such calls, ``time`` the callbacks that
compute for long instead: watching every call takes time itself.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import asyncio.events
import functools
import io
import os
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_AUDITED = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink"}
    | {
        "os.truncate",
        "os.chmod",
        "os.utime",
        "fcntl.flock",
        "fcntl.lockf",
        "subprocess.Popen",
        "import",
        "mmap.__new__",
    }
    | {"os.fork", "os.posix_spawn", "os.exec", "os.system", "os.chdir", "os.chown", "ctypes.dlopen"}
    | {"socket.connect", "socket.getaddrinfo", "shutil.rmtree", "shutil.copyfile"}
)
_QUICK = frozenset(
    {"fspath", "urandom", "strerror", "fsencode", "fsdecode", "getpid", "getppid", "getsid", "getpgid", "getuid"}
    | {"geteuid", "kill", "killpg", "cpu_count", "sched_getaffinity", "pidfd_open", "getpriority", "_path_normpath"}
    | {
        "waitid",
        "pipe",
        "read",
        "write",
        "close",
        "pipe2",
        "set_blocking",
        "set_inheritable",
        "getloadavg",
        "times",
        "sysconf",
    }
)
"""Functions of ``os`` that wait for nothing (``waitid`` is called with WNOHANG), or that are told by what they are
called with: see :data:`_PATCHED`.
"""
_FILES = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)
_WAITING = frozenset({("time", "sleep"), ("_posixsubprocess", "fork_exec"), ("fcntl", "flock"), ("fcntl", "lockf")})
_SYSTEM = os.stat.__module__  # posix or nt
_PATCHED = tuple(
    name
    for names in (
        ("stat", "lstat", "access", "readlink", "statvfs", "fsync", "fdatasync", "fstat", "read", "write", "pread"),
        ("pwrite", "readv", "writev", "close", "sendfile", "getxattr", "ftruncate", "getcwd", "waitpid"),
    )
    for name in names
    if hasattr(os, name)
)
"""These raise no audit event, and a C function may call them, which no profile shows."""
LONG = 0.002
"""Seconds of processor time, which other programs change little, from which on a callback is noted."""
_fstat = os.fstat
_HERE = os.path.abspath(__file__)


def install(note: Callable[[str], object], *, calls: bool = True, begun: Callable[[], object] = lambda: None) -> None:
    """Install the watch for the rest of the process.

    :param note: called for each call, with the places that it was made from, the innermost first.
    :param calls: whether to note calls; otherwise callbacks that compute for long.
    :param begun: called before each callback.
    """
    state = threading.local()
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        begun()
        began = time.thread_time()
        run(handle)
        if (took := time.thread_time() - began) > LONG:
            note(f"{took * 1000:.1f} ms of computing in {handle!r}")

    def watched(handle: asyncio.Handle) -> None:
        begun()
        state.inside = True
        sys.setprofile(profiled)
        try:
            run(handle)
        finally:
            sys.setprofile(None)
            state.inside = False

    def told(what: str, detail: object) -> None:
        if getattr(state, "inside", False):
            state.inside = False  # what follows is our own code
            try:
                if not (isinstance(detail, int) and _is_pipe(detail)):
                    note(f"{what} {detail!r} {_places()}")
            finally:
                state.inside = True

    def profiled(frame: object, event: str, called: Any) -> None:
        del frame
        if event == "c_call" and _waits(called):
            told(f"{called.__module__ or type(called.__self__).__name__}.{called.__name__}", None)

    asyncio.events.Handle._run = watched if calls else timed
    if not calls:
        return
    sys.addaudithook(lambda event, args: told(event, args[0] if args else None) if event in _AUDITED else None)
    for where, names in ((os, _PATCHED), (time, ("sleep",)), (threading.Thread, ("join",))):
        for name in names:
            setattr(where, name, _telling(f"{where.__name__}.{name}", getattr(where, name), told))


def _waits(called: Any) -> bool:
    """Whether a C function waits for a disk, a process or a time."""
    if isinstance(getattr(called, "__self__", None), _FILES):
        return True
    if called.__module__ == _SYSTEM:
        return called.__name__ not in _QUICK
    return (called.__module__, called.__name__) in _WAITING


def _telling(name: str, function: Callable[..., Any], told: Callable[[str, object], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def telling(*args: Any, **named: Any) -> Any:
        told(name, args[0] if args else None)
        return function(*args, **named)

    return telling


def _is_pipe(fd: int) -> bool:
    """Whether a descriptor leads to another thread or process: the loop wakes threads by it, and waits for none."""
    try:
        mode = _fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _places() -> str:
    places, frame = [], sys._getframe(1)
    while frame is not None and len(places) < 14:
        if frame.f_code.co_filename != _HERE:
            file = "/".join(frame.f_code.co_filename.split("/")[-2:])
            places.append(f"{file}:{frame.f_lineno}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(places)


if __name__ == "__main__":
    what, path = sys.argv.pop(1), sys.argv.pop(1)
    write, opened = os.write, functools.partial(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @functools.cache
    def notes() -> int:
        """Create the file, which says that the loop runs."""
        return opened()

    install(lambda line: write(notes(), line.encode() + b"\n"), calls=what == "calls", begun=notes)
    from locara_sidecar.__main__ import main

    main()
