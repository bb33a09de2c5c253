"""Whether an update is replacing the files that this process came from, and what to do about it.

Imports nothing that is not loaded already, because it is needed when nothing more can be. Only a bundle is watched: its
folders change with an update alone, while those of other installations also change when bytecode is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time

BEGAN = time.time()
"""When this process began, in seconds since 1970, or a little later."""
QUIET = 0.3
"""Seconds without a change after which an update counts as done."""
_PATIENCE = 5.0  # seconds that it may take
_AHEAD = 60.0
"""Seconds in the future from which a change was not made just now: the clock was set back, or an installer wrote the
time of another time zone."""
_LATE = 0.1  # seconds: a process is as old when it gets here, and a file system's clock is a little behind
_MOST_STARTS = 4
_GONE = (FileNotFoundError, NotADirectoryError, PermissionError)
_COUNTER = "LOCARA_STARTS"  # how often this process was started anew; children do not inherit it
_PYTHON = sys.prefix
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_ROOT = os.path.dirname(sys.prefix)
_FACTS = os.path.join(_ROOT, "bundle.json")
_IS_BUNDLE = os.path.isfile(_FACTS)
_first = os.stat(_PYTHON) if os.path.isdir(_PYTHON) else None
_starts = len(os.environ.pop(_COUNTER, ""))


def are_replaced(since: float = BEGAN) -> bool:
    """Whether the bundle's files have been replaced, removed or added to since then, or are just being; False for other
    installations. What was only overwritten is not noticed. Looks at each folder (some milliseconds).

    :param since: seconds since 1970.
    """
    return _IS_BUNDLE and _changed(since - _LATE)


def require_unmoved() -> None:
    """Check that the folder with the interpreter is still the one that this process began in: else what was read last
    may not have been there, or may be of another version. One look, which costs nothing.

    :raises FileNotFoundError: if it is not.
    """
    if _IS_BUNDLE:
        now = os.stat(_PYTHON)
        if _first is None or (now.st_dev, now.st_ino) != (_first.st_dev, _first.st_ino):
            raise FileNotFoundError(errno.ENOENT, "another folder is in its place", _PYTHON)


def settle(patience: float = _PATIENCE) -> bool:
    """Wait until a bundle's files are there and nothing has changed for :data:`QUIET` seconds; False if that takes
    longer than ``patience``, in seconds.
    """
    until = time.monotonic() + patience
    while _IS_BUNDLE and _changed(time.time() - QUIET):
        if time.monotonic() > until:
            return False
        time.sleep(QUIET / 3)
    return True


def settled_since(since: float) -> bool:
    """Whether files have been replaced since then; if so, waits until that is done, or for some seconds."""
    if not are_replaced(since):
        return False
    settle()
    return True


_moved: list[None] = []


def descriptors_moved() -> None:
    """Note that 0 and 1 are no longer the host's: only who knows those can still start the process anew."""
    _moved.append(None)


def start_anew(error: BaseException, stdin: int = 0, stdout: int = 1, passed: int | None = None) -> None:
    """Replace this process by a new one with the same arguments, if an update may be why it could not start; else
    return. Waits for the update to be done. Nothing may have been read from stdin yet.

    :param error: why it could not start.
    :param stdin: and ``stdout``: the host's, if they were moved; without them it returns if :func:`descriptors_moved`.
    :param passed: a descriptor that the arguments name, which the new process needs, too.
    """
    if sys.platform == "win32":
        return  # a new process would have another id
    if _moved and (stdin, stdout) == (0, 1):
        return  # the new process would read from the null device, and answer on stderr
    if isinstance(error, MemoryError) or _starts >= _MOST_STARTS or not are_replaced():
        return
    settle()
    os.environ[_COUNTER] = "x" * (_starts + 1)
    with contextlib.suppress(OSError):
        if passed is not None:
            os.set_inheritable(passed, True)
        for fd, taken in ((stdin, 0), (stdout, 1)):
            if fd != taken:
                os.dup2(fd, taken)
        if os.path.exists(sys.executable):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        launcher = os.path.join(_ROOT, "locara-sidecar")  # its Python has another name
        os.execv(launcher, [launcher, *sys.argv[1:]])
    os.environ.pop(_COUNTER, None)


def is_of_ours(error: BaseException | None) -> bool:
    """Whether an error, or its cause, says that a module or another file of ours could not be read."""
    while error is not None:
        if isinstance(error, ImportError):
            return True
        if isinstance(error, _GONE) and isinstance(error.filename, str) and _is_below(error.filename):
            return True
        error = error.__cause__
    return False


def _is_below(path: str) -> bool:
    return path.startswith(os.path.join(_ROOT if _IS_BUNDLE else _PACKAGE, ""))


def _changed(since: float) -> bool:
    """Whether a folder of the bundle has changed since then, or something that every bundle has is missing."""
    if not (os.path.exists(_FACTS) and os.path.isdir(_PYTHON)):
        return True
    latest = time.time() + _AHEAD
    waiting = [_ROOT]
    while waiting:
        folder = waiting.pop()
        try:
            found = os.stat(folder)
            if since <= (found.st_mtime if sys.platform == "win32" else found.st_ctime) <= latest:
                return True
            with os.scandir(folder) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # it was there a moment ago
            return True
    return False
