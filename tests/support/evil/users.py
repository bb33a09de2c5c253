"""Running a program as an ordinary user, starting as root. Such a user may not even enter root's home, where Python may
be."""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from pathlib import Path

_NEWNS, _BIND_ALL, _PRIVATE_ALL = 0x00020000, 0x1000 | 0x4000, (1 << 18) | 0x4000
_ROOT = Path(__file__).parents[3]


def become(name: str) -> None:
    """Be the user ``name`` from here on; what Python and this checkout need is made reachable, in a mount namespace for
    this process only. For ``preexec_fn``.

    :raises OSError: if any of this is not permitted.
    """
    entry = pwd.getpwnam(name)
    needed = {str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, _ROOT)}
    closed = {found for path in needed if (found := _closed_above(path)) is not None}
    if closed:
        libc = ctypes.CDLL(None, use_errno=True)

        def call(function: str, *arguments: object) -> None:
            if getattr(libc, function)(*arguments) != 0:
                raise OSError(ctypes.get_errno(), function)

        call("unshare", _NEWNS)
        call("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE_ALL), None)
        for folder in closed:
            kept = {path: os.open(path, os.O_PATH) for path in needed if Path(path).is_relative_to(folder)}
            call("mount", b"none", folder.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=755")
            for path, fd in kept.items():
                os.makedirs(path, mode=0o755)
                call("mount", f"/proc/self/fd/{fd}".encode(), path.encode(), None, ctypes.c_ulong(_BIND_ALL), None)
                os.close(fd)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = "/tmp"


def _closed_above(path: str) -> str | None:
    """Return the first folder above ``path`` that not everybody may enter."""
    for folder in reversed(Path(path).parents):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return None
