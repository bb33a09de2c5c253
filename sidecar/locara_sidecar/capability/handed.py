"""Picked files that the host hands over instead of their path: as bytes in the call, or as an open descriptor.

Both are for a host that may open what this process may not (a child in macOS's App Sandbox). For a descriptor there is
no folder in which a new file could replace the old one, so it is written in place: disk space is allocated first, and a
picture that cannot be written whole leaves either the old content or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.wording import shown
from locara_sidecar.capability.authorize import access_of_pick
from locara_sidecar.capability.files import names
from locara_sidecar.capability.files.held import MAX_SHOWN, NOT_A_FILE, privacy, storage_error
from locara_sidecar.capability.files.picked import PickedFile, PickedSource, PickedTarget, check_extension, check_room
from locara_sidecar.capability.files.reading import ReadableFile
from locara_sidecar.capability.files.system import System
from locara_sidecar.machine import disk_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.authorize import Grant

_CHUNK = 1 << 20


class SentFile(ReadableFile):
    """A file whose bytes came in the call."""

    def __init__(self, data: bytes, name: str, at: str) -> None:
        super().__init__(-1, System(), name, "user-selected", at)
        self._data = data

    def seen_at(self, at: str) -> ReadableFile:
        """Return the same bytes for another call."""
        return SentFile(self._data, self._names[0], at)

    def size(self) -> int:
        """The size in bytes."""
        return len(self._data)

    def head(self, size: int) -> bytes:
        """Return the first bytes."""
        return self._data[:size]

    def read(self, limit: int) -> bytes:
        """Return everything; the size was checked on arrival, and no file's ``limit`` is below that."""
        del limit
        return self._data

    def close(self) -> None:
        """Release the bytes."""
        self._data = b""


class HandedTarget(PickedTarget):
    """A file to write that came as a descriptor.

    :param fd: owned and closed by this object.
    """

    def __init__(self, name: str, fd: int, system: System) -> None:
        PickedFile.__init__(self, name, lambda: system.close(fd))
        self._fd = fd
        self._system = system
        self._named = system.file_status(fd).st_nlink > 0

    def check(self) -> None:
        """Check that it could be saved now.

        :raises RpcError: StorageError with ENOENT if the file was removed meanwhile.
        """
        try:
            gone = self._named and self._system.file_status(self._fd).st_nlink == 0
        except OSError as error:
            raise _explained(error, self.name) from error
        if gone:
            raise _explained(FileNotFoundError(errno.ENOENT, "removed"), self.name)

    def save(
        self, data: bytes, *, cancelled: Callable[[], bool] | None = None, begin: Callable[[], bool] | None = None
    ) -> None:
        """Replace the file's contents with ``data``. Blocks; call it in a thread.

        A full disk is detected while the old content is still intact. Any other failure leaves an empty file.

        :param cancelled: called before the first byte, and ``begin`` after it.
        :raises RpcError: InsufficientDisk, RequestCancelled, StorageError.
        """
        self.check()
        if (cancelled is not None and cancelled()) or (begin is not None and not begin()):
            raise RpcError("RequestCancelled", "The request was cancelled.")
        try:
            before = self._system.file_status(self._fd).st_size
            self._extend(data, before)
            try:
                self._write(data[:before], 0)
                self._system.set_size(self._fd, len(data))
                self._system.sync(self._fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._system.set_size(self._fd, 0)
                raise
        except OSError as error:
            if error.errno not in disk_space.FULL:
                raise _explained(error, self.name) from error
            with contextlib.suppress(OSError):
                available = self._system.available(self._fd)
                why = disk_space.why_full(error.errno, self._fd, len(data), available)
                message = f"{shown(self.name, MAX_SHOWN)} cannot be saved. {why}"
                raise RpcError("InsufficientDisk", message, needed=len(data), available=available) from error
            raise _explained(error, self.name) from error

    def _extend(self, data: bytes, before: int) -> None:
        """Write what lies beyond the old end; if there is no room, the file is left unchanged."""
        try:
            self._write(data[before:], before)
        except BaseException:
            with contextlib.suppress(OSError):
                self._system.set_size(self._fd, before)
            raise

    def _write(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = self._system.write_at(self._fd, rest[:_CHUNK], offset)
            if written <= 0:
                raise OSError(errno.ENOSPC, "no more bytes were written")
            rest, offset = rest[written:], offset + written


def sent(grant: Grant, name: str, data: bytes) -> PickedSource:
    """Create a file to read from ``data``.

    :param grant: the gate's grant for this very call.
    """
    if access_of_pick(grant) != "read":
        raise TypeError("bytes are a file to read")
    picked = PickedSource(name, SentFile(data, name, "$.data"))
    picked.held_bytes = len(data)
    return picked


def handed(
    grant: Grant, name: str, fd: int, extensions: tuple[str, ...], at: str, system: System | None = None
) -> PickedFile:
    """Create the file that is open as ``fd``; the descriptor is closed with it, or at once if this fails.

    :param grant: the gate's grant for this very call.
    :param extensions: allowed extensions of a file to write, in lower case.
    :param at: the parameter that names it, for errors.
    :raises RpcError: InvalidParams for an invalid name; StorageError with ``errno``.
    """
    system = system or System()
    access = access_of_pick(grant)
    picked: PickedFile
    try:
        if access == "write":
            check_extension("$.name", name, extensions)
        check_room(fd, at)
        try:
            _check(fd, access, system)
            if access == "read":
                return PickedSource(name, ReadableFile(fd, system, name, "user-selected", at))
            picked = HandedTarget(name, fd, system)
        except OSError as error:
            raise _explained(error, name, path=at) from error
    except BaseException:
        with contextlib.suppress(OSError):
            system.close(fd)
        raise
    return picked


def check_name(name: str) -> None:
    """Check a file's name.

    :raises RpcError: InvalidParams.
    """
    if len(names.existing(name, "$.name")) > 1:
        raise invalid_params("$.name", "The name must be the file's own, without a folder.")


def _check(fd: int, access: str, system: System) -> None:
    """Check the open file.

    :raises OSError: if it is not a regular file, or not open for that access.
    """
    status = system.file_status(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(NOT_A_FILE.get(stat.S_IFMT(status.st_mode), errno.EINVAL), "not a regular file")
    flags = system.open_flags(fd)
    ways = {"read": (os.O_RDONLY, os.O_RDWR), "write": (os.O_WRONLY, os.O_RDWR)}[access]
    appends = access == "write" and flags & os.O_APPEND
    if flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) not in ways or flags & getattr(os, "O_PATH", 0) or appends:
        raise OSError(errno.EBADF, f"not open to {access}")


_WHY = {
    errno.EBADF: "its descriptor is not open for this access (to write: O_WRONLY or O_RDWR, without O_APPEND)",
    errno.EISDIR: "it is a folder",
    errno.EINVAL: "it is not a regular file",
    errno.ENOENT: "it has been removed",
}


def _explained(error: OSError, name: str, **data: str) -> RpcError:
    why = privacy(error.errno) or _WHY.get(error.errno or 0) or os.strerror(error.errno or 0)
    return storage_error(f"{shown(name, MAX_SHOWN)} cannot be used: {why}.", error.errno, **data)
