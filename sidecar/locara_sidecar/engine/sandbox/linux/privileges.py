"""Give up the privileges of the user that a process runs as, and limit the size and number of what it can create.

The privileges are capabilities: root's, or those of a new user namespace. Root without capabilities is an ordinary user
that owns root's files, so Landlock and the call filter protect those from the engine. Capabilities are dropped last,
since the steps before need one; an ordinary user may not take those steps, and has nothing to lose.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.engine.sandbox.linux.kernel import Kernel

_GET_BOUNDING, _DROP_BOUNDING, _SET_SECUREBITS, _AMBIENT, _CLEAR_ALL = 23, 24, 28, 47, 4  # of prctl
_LOCKED = 0xEF
"""No rights from being root or changing users, none kept or ambient; and all of that locked (``SECBIT_…``)."""
_MOST_CAPABILITIES = 64

_SIGPENDING, _NICE, _RTPRIO = 11, 13, 14
"""``RLIMIT_…`` of Linux, for which Python has no names on other systems."""
_GIB = 1 << 30
_LARGEST_FILE = _GIB
"""Maximum size in bytes of a file that the engine writes when it prepares no model: compiled kernels, caches."""
_MOST_TASKS = 4096
"""Maximum number of threads and processes of an engine, if the system counts them for it alone."""
_MOST_DESCRIPTORS = _MOST_SIGNALS = 1024
"""Limits on open files, and so on its part of the user's pipes; and on its part of the user's pending signals."""


def give_up(kernel: Kernel) -> str:
    """Drop every capability irrevocably; returns a description.

    Call it after everything that needs them (namespaces).

    :raises OSError: if some could not be dropped.
    """
    kernel.no_new_privileges()
    with contextlib.suppress(OSError):  # not permitted to an ordinary user, who has none to regain
        kernel.prctl(_AMBIENT, _CLEAR_ALL)
    with contextlib.suppress(OSError):
        for capability in range(_MOST_CAPABILITIES):
            kernel.prctl(_GET_BOUNDING, capability)  # fails when there are no more
            kernel.prctl(_DROP_BOUNDING, capability)
    with contextlib.suppress(OSError):
        kernel.prctl(_SET_SECUREBITS, _LOCKED)
    kernel.drop_capabilities()
    return "in use: none is left"


def limit(kernel: Kernel, prepared_from: Iterable[str] | None, *, counted_alone: bool) -> str:
    """Limit what the engine can create; returns a description.

    :param prepared_from: files and folders of the models to be prepared, if any: no file made from them is larger than
        all of them together.
    :param counted_alone: whether this process counts as a separate user, so that others' processes are not counted.
    :raises OSError: if the system refuses a limit.
    """
    assert sys.platform != "win32"
    import resource

    largest = _LARGEST_FILE + sum(map(_bytes_of, prepared_from or ()))
    kernel.limit(resource.RLIMIT_CORE, 0)  # it would contain the prompt and the model
    kernel.limit(resource.RLIMIT_FSIZE, largest)
    kernel.limit(resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS)
    kernel.limit(_SIGPENDING, _MOST_SIGNALS)
    for which in (_NICE, _RTPRIO):  # some users may have real-time priority, usually for audio
        kernel.limit(which, 0)
    if counted_alone:
        kernel.limit(resource.RLIMIT_NPROC, _MOST_TASKS)
    return f"in use: files of {largest >> 20} MiB" + (f", {_MOST_TASKS} threads" if counted_alone else "")


def _bytes_of(path: str) -> int:
    """Return the size of a file, or of all files below a folder. Links are not followed; their targets are listed."""
    if not os.path.isdir(path):
        with contextlib.suppress(OSError):
            return os.stat(path).st_size
        return 0
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
