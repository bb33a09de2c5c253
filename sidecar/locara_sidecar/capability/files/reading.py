"""Reads a file in a granted folder: never outside it, only regular files, and only up to a limit.

A file is opened once and read from its descriptor later, so that the file read is the one that was checked, whatever
happens to its name meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError
from locara_protocol.wording import shown
from locara_sidecar.capability.files import names
from locara_sidecar.capability.files.held import MAX_SHOWN, NOT_A_FILE, HeldFolder, Resolution, privacy, storage_error

if TYPE_CHECKING:
    from locara_sidecar.capability.authorize import FolderGrant
    from locara_sidecar.capability.files.system import System

_CHUNK = 1 << 20


class ReadableFolder(HeldFolder):
    """A granted folder, open for reading.

    :param resolution: how folders below it are found; ``auto`` uses openat2 if the system has it.
    :raises RpcError: StorageError if the folder does not exist or cannot be opened.
    """

    def __init__(self, grant: FolderGrant, *, resolution: Resolution = "auto", system: System | None = None) -> None:
        super().__init__(grant, "read", resolution, system)

    def open(self, relative: str, at: str) -> ReadableFile:
        """Open the regular file ``relative``. May block on the file system; call it in a thread.

        :param at: the parameter that names the file, for errors.
        :raises RpcError: InvalidParams for a path that is never allowed; StorageError with ``errno`` for a file that
            does not exist, is not regular (ELOOP: a link, or reached through one) or cannot be read.
        """
        *folders, name = names.existing(relative, at)
        try:
            with contextlib.ExitStack() as stack:
                fd = self._open(name, self._find(folders, stack))
        except OSError as error:
            raise _explained(error, relative, self._grant.root, at) from error
        return ReadableFile(fd, self._system, relative, self._grant.root, at)

    def _open(self, name: str, parent: int) -> int:
        _check_regular(self._system.status(name, parent))  # first, because opening a device may have side effects
        fd = self._system.open_read(name, parent)
        try:
            _check_regular(self._system.file_status(fd))  # again, because it may be a different file by now
        except BaseException:
            self._close(fd)
            raise
        return fd


class ReadableFile:
    """One open regular file; created by :class:`ReadableFolder`."""

    _shared = False

    def __init__(self, fd: int, system: System, relative: str, root: str, at: str) -> None:
        self._fd = fd
        self._system = system
        self._names = relative, root, at

    def seen_at(self, at: str) -> ReadableFile:
        """Return the same open file for another call, which does not close it.

        :param at: the parameter that names it there.
        """
        what, root, _ = self._names
        view = ReadableFile(self._fd, self._system, what, root, at)
        view._shared = True
        return view

    def descriptor(self) -> int:
        """The file's descriptor; -1 once it has been closed."""
        return self._fd

    def size(self) -> int:
        """Its current size in bytes.

        :raises RpcError: StorageError.
        """
        try:
            return self._system.file_status(self._fd).st_size
        except OSError as error:
            raise _explained(error, *self._names) from error

    def head(self, size: int) -> bytes:
        """Return the first bytes, fewer if the file is shorter.

        :raises RpcError: StorageError.
        """
        try:
            return self._system.read(self._fd, size, 0)
        except OSError as error:
            raise _explained(error, *self._names) from error

    def read(self, limit: int) -> bytes:
        """Return the whole file as it is now.

        :raises RpcError: InvalidImage with ``maxBytes`` for more than ``limit`` bytes, even if the file grew;
            StorageError.
        """
        parts: list[bytes] = []
        have = 0
        try:
            size = self._system.file_status(self._fd).st_size
            # a single call reads everything and releases the GIL meanwhile; joining a large file's parts would not
            while size <= limit and (part := self._system.read(self._fd, max(size + 1 - have, _CHUNK), have)):
                parts.append(part)
                have += len(part)
                size = max(size, have)
        except OSError as error:
            raise _explained(error, *self._names) from error
        if size > limit:
            what, _, at = self._names
            message = f"{shown(what, MAX_SHOWN)} has more than {limit} bytes."
            raise RpcError("InvalidImage", message, path=at, maxBytes=limit)
        return b"".join(parts)

    def close(self) -> None:
        """Close the descriptor; closing it twice is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and not self._shared:
            with contextlib.suppress(OSError):
                self._system.close(fd)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(NOT_A_FILE.get(stat.S_IFMT(status.st_mode), errno.EINVAL), "not a regular file")


_WHY = {
    errno.ENOENT: "there is no such file",
    errno.ELOOP: "it is a link, or its path contains one",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EINVAL: "it is not a regular file",
    errno.EACCES: "its permissions forbid it",
}


def _explained(error: OSError, relative: str, root: str, at: str) -> RpcError:
    why = privacy(error.errno) or _WHY.get(error.errno or 0) or os.strerror(error.errno or 0)
    return storage_error(f"{shown(relative, MAX_SHOWN)} cannot be read in {root}: {why}.", error.errno, path=at)
