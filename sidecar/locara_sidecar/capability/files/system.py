"""The system calls for saving and reading files, in one table, so that a test can make each of them fail in turn.

Every method is one call (or the platform's equivalent) and raises OSError if it fails. Nothing here makes decisions.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from typing import Any

DIRECTORY = getattr(os, "O_RDONLY", 0) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
TMPFILE: int = getattr(os, "O_TMPFILE", 0)
"""0 if the system has no anonymous files."""

AVAILABLE = os.open in os.supports_dir_fd and os.mkdir in os.supports_dir_fd and NOFOLLOW != 0
"""Whether this system can open a file relative to a held folder."""

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY})
"""The errors by which file systems and kernels say that they do not support a call."""

_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_AT_EMPTY_PATH = 0x1000
_F_FULLFSYNC = 51


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *arguments: Any) -> int:
    """Return a C function's result; retry if a signal interrupted it, as Python's own calls do."""
    while True:
        result: int = function(*arguments)
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _missing() -> OSError:
    """Return the error for calls that this system lacks; never reached if :data:`AVAILABLE` is checked first."""
    return OSError(errno.ENOSYS, "this system does not have the call")


class System:
    """The real calls; a test wraps an instance."""

    def open_root(self, path: str) -> int:
        """Open the granted folder itself. A link is followed: the host resolved the folder and vouches for it."""
        return os.open(path, DIRECTORY)

    def open_folder(self, name: str, parent: int) -> int:
        """Open one component, never through a link."""
        return os.open(name, DIRECTORY | NOFOLLOW, dir_fd=parent)

    def open_beneath(self, path: str, parent: int) -> int:
        """Open a folder some components down, without following links and never above ``parent`` (Linux 5.6)."""
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "openat2 is Linux only")
        how = _OpenHow(DIRECTORY, 0, _RESOLVE)
        encoded = os.fsencode(path)
        size = ctypes.c_size_t(ctypes.sizeof(how))
        number = ctypes.c_long(_OPENAT2)
        return _call(_libc().syscall, number, ctypes.c_int(parent), encoded, ctypes.byref(how), size)

    def make_folder(self, name: str, parent: int) -> None:
        """Create a folder with the user's umask."""
        os.mkdir(name, 0o777, dir_fd=parent)

    def remove_folder(self, name: str, parent: int) -> None:
        """Remove a folder; fails if it is not empty."""
        os.rmdir(name, dir_fd=parent)

    def create_anonymous(self, parent: int) -> int:
        """Create a file without a name in that folder, with the user's umask."""
        if not TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "there are no anonymous files on this system")
        return os.open(".", TMPFILE | os.O_WRONLY | CLOEXEC, 0o666, dir_fd=parent)

    def create_named(self, name: str, parent: int) -> int:
        """Create a new file with the user's umask."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC | NOFOLLOW
        return os.open(name, flags, 0o666, dir_fd=parent)

    def open_append(self, name: str, parent: int) -> int:
        """Open a file for appending, created with the user's umask if missing; never through a link.

        Non-blocking, because the name may belong to a pipe that nobody reads.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | CLOEXEC | NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags, 0o666, dir_fd=parent)

    def open_read(self, name: str, parent: int) -> int:
        """Open a file for reading; never through a link.

        Non-blocking, because the name may belong to a pipe that nobody writes to, and never as a controlling terminal.
        """
        flags = os.O_RDONLY | CLOEXEC | NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
        return os.open(name, flags, dir_fd=parent)

    def try_lock(self, fd: int) -> None:
        """Take an exclusive lock that belongs to the descriptor; BlockingIOError if another process has it."""
        if sys.platform == "win32":
            raise _missing()
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, fd: int, data: memoryview) -> int:
        """Return the bytes written, which may be fewer than given."""
        return os.write(fd, data)

    def write_at(self, fd: int, data: memoryview, offset: int) -> int:
        """Return the bytes written at ``offset``, which may be fewer than given."""
        if sys.platform == "win32":
            raise _missing()
        return os.pwrite(fd, data, offset)

    def set_size(self, fd: int, size: int) -> None:
        """Truncate the file to that size."""
        os.ftruncate(fd, size)

    def open_flags(self, fd: int) -> int:
        """Return how the file was opened: O_RDONLY, O_WRONLY, O_RDWR, O_APPEND and such."""
        if sys.platform == "win32":
            raise _missing()
        import fcntl

        return fcntl.fcntl(fd, fcntl.F_GETFL)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; none at the end."""
        if sys.platform == "win32":
            raise _missing()
        return os.pread(fd, size, offset)

    def set_mode(self, fd: int, mode: int) -> None:
        """Set the file's permissions."""
        if sys.platform == "win32":
            raise _missing()
        os.fchmod(fd, mode)

    def sync(self, fd: int) -> None:
        """Flush contents and size to disk, or as far as the file system can: some know no sync, or none of folders."""
        if sys.platform == "darwin":
            import fcntl

            try:
                fcntl.fcntl(fd, _F_FULLFSYNC)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                os.fsync(fd)  # network and foreign file systems support no more
        else:
            try:
                os.fsync(fd)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise

    def link_anonymous(self, fd: int, name: str, parent: int) -> None:
        """Give an anonymous file its name; EEXIST if it is taken."""
        try:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=parent, follow_symlinks=True)
        except FileNotFoundError:  # /proc is not mounted
            flag = ctypes.c_int(_AT_EMPTY_PATH)
            _call(_libc().linkat, ctypes.c_int(fd), b"", ctypes.c_int(parent), os.fsencode(name), flag)

    def link_named(self, old: str, new: str, parent: int) -> None:
        """Create a second name; EEXIST if it is taken."""
        os.link(old, new, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)

    def rename_new(self, old: str, new: str, parent: int) -> None:
        """Rename; EEXIST if the new name is taken."""
        name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform, "")
        flag = _RENAME_NOREPLACE if sys.platform == "linux" else _RENAME_EXCL
        rename = getattr(_libc(), name, None) if name else None
        if rename is None:
            raise OSError(errno.ENOSYS, "there is no exclusive rename on this system")
        folder = ctypes.c_int(parent)
        _call(rename, folder, os.fsencode(old), folder, os.fsencode(new), ctypes.c_uint(flag))

    def rename_over(self, old: str, new: str, parent: int) -> None:
        """Rename, replacing what has the new name; a link itself, not its target."""
        os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)

    def unlink(self, name: str, parent: int) -> None:
        """Remove a name from the folder ``parent``."""
        os.unlink(name, dir_fd=parent)

    def status(self, name: str, parent: int) -> os.stat_result:
        """Return the status of the name itself, even if it is a link."""
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def file_status(self, fd: int) -> os.stat_result:
        """Return the status of an open file."""
        return os.fstat(fd)

    def available(self, fd: int) -> int:
        """Return the bytes that the user may still write to this file system."""
        if sys.platform == "win32":
            raise _missing()
        disk = os.fstatvfs(fd)
        return disk.f_bavail * disk.f_frsize

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)
