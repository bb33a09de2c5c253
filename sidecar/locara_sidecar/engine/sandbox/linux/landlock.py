"""Landlock: which files this process can still open, for each version of the kernel's interface.

Rights are granted by folder or file; whatever a kernel's version can control and no rule grants is denied. No version
so far controls stat, chdir, and descriptors that were already open; nor chmod, chown, utime and extended attributes of
files that the user may change, which the call filter denies (``calls.py``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.engine.sandbox.linux.kernel import Kernel

Right = Literal["read", "run", "write", "device", "own", "rename-threads"]
"""What a rule grants.

In this order: reading; reading and executing; reading and writing (a folder of our own); a device node; reading
``/proc/self``; and ``/proc/self/task``, where existing files may also be written, as CUDA requires.
"""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 1 << 4, 1 << 5, 1 << 6, 1 << 7
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

_FIRST = (1 << 13) - 1  # what version 1 controls
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_READ = READ_FILE | READ_DIR
_MAKE = REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
_RIGHTS: dict[Right, int] = {
    "read": _READ,
    "own": _READ,
    "run": _READ | EXECUTE,
    # not EXECUTE: what the engine wrote may be loaded as a library, but never run as a program
    "write": _READ | WRITE_FILE | TRUNCATE | REFER | _MAKE,
    "device": _READ | WRITE_FILE | IOCTL_DEV,
    "rename-threads": _READ | WRITE_FILE | TRUNCATE,  # CUDA opens the file of a thread's name as with fopen(…, "w")
}


def handled(abi: int) -> tuple[int, int, int]:
    """Return what interface version ``abi`` can control: files, network, scopes."""
    files = _FIRST
    for version, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if abi >= version:
            files |= right
    network = BIND_TCP | CONNECT_TCP if abi >= 4 else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= 6 else 0
    return files, network, scopes


def rights(right: Right, abi: int, *, folder: bool) -> int:
    """Return the bits of a rule. The kernel rejects bits that it does not handle, and folder bits for a file."""
    bits = _RIGHTS[right] & handled(abi)[0]
    return bits if folder else bits & _OF_FILES


def restrict(kernel: Kernel, abi: int, rules: Iterable[tuple[str, Right]]) -> list[str]:
    """Apply the rules to this process irrevocably; returns the paths that do not exist.

    Call it while there is one thread: the kernel confines the calling thread and its descendants.

    :raises OSError: if the kernel refuses; nothing is confined then.
    """
    missing: list[str] = []
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = kernel.create_ruleset(*handled(abi), size)
    try:
        for path, right in rules:
            try:
                fd, folder = kernel.open_path(path)
            except OSError:
                missing.append(path)
                continue
            try:
                kernel.allow_beneath(ruleset, fd, rights(right, abi, folder=folder))
            finally:
                # a rule is bound to an inode, but /proc recreates its inodes once nobody has them open
                if right not in ("own", "rename-threads"):
                    kernel.close(fd)
        kernel.no_new_privileges()
        kernel.restrict_self(ruleset)
    finally:
        with contextlib.suppress(OSError):
            kernel.close(ruleset)
    return missing
