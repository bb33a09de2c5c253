"""Picked files that the host hands over in place of their path: their bytes in the call, or an open descriptor.

Both are for a host that may open what this process may not (a child in macOS's App Sandbox). A file to write has then
no folder in which another could take its place, so it is written as it lies: room is taken first, and a picture that
cannot be written whole leaves either what was there or nothing.
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.authorize import Grant

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class SentFile(ReadableFile):
    """A file whose bytes came in the call."""

    def __init__(self, data: bytes, name: str, at: str) -> None:
        super().__init__(-1, System(), name, "user-selected", at)
        self._data = data

    def seen_at(self, at: str) -> ReadableFile:
        """The same bytes for another call."""
        return SentFile(self._data, self._names[0], at)

    def size(self) -> int:
        """In bytes."""
        return len(self._data)

    def head(self, size: int) -> bytes:
        """The first bytes."""
        return self._data[:size]

    def read(self, limit: int) -> bytes:
        """All; they were counted when they came, and no ``limit`` of a file is below that."""
        del limit
        return self._data

    def close(self) -> None:
        """Let the bytes go."""
        self._data = b""


class HandedTarget(PickedTarget):
    """A file to write that came as a descriptor.

    :param fd: this object's to close.
    """

    def __init__(self, name: str, fd: int, system: System) -> None:
        PickedFile.__init__(self, name, lambda: system.close(fd))
        self._fd = fd
        self._system = system
        self._named = system.file_status(fd).st_nlink > 0

    def check(self) -> None:
        """Whether it could be saved now.

        :raises RpcError: StorageError with ENOENT where the file was removed meanwhile.
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
        """Make ``data`` all that the file holds. It blocks; call it in a thread.

        A disk that is full is found out while what was there is whole still. Any other failure leaves an empty file.

        :param cancelled: asked before the first byte, as ``begin`` is after it.
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
            if error.errno not in _FULL:
                raise _explained(error, self.name) from error
            with contextlib.suppress(OSError):
                available = self._system.available(self._fd)
                message = f"The disk is too full to save {shown(self.name, MAX_SHOWN)}."
                raise RpcError("InsufficientDisk", message, needed=len(data), available=available) from error
            raise _explained(error, self.name) from error

    def _extend(self, data: bytes, before: int) -> None:
        """Write what lies beyond the old end; without room the file is as it was."""
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
    """A file to read whose bytes are ``data``.

    :param grant: the gate's leave for this very call.
    """
    if access_of_pick(grant) != "read":
        raise TypeError("bytes are a file to read")
    picked = PickedSource(name, SentFile(data, name, "$.data"))
    picked.held_bytes = len(data)
    return picked


def handed(
    grant: Grant, name: str, fd: int, extensions: tuple[str, ...], at: str, system: System | None = None
) -> PickedFile:
    """The file that is open as ``fd``, which is closed with it, and at once where this fails.

    :param grant: the gate's leave for this very call.
    :param extensions: one of which the name of a file to write must have, in lower case.
    :param at: the parameter that names it, for errors.
    :raises RpcError: InvalidParams for a name that cannot be; StorageError with ``errno``.
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
    """Whether a file may be called that.

    :raises RpcError: InvalidParams.
    """
    if len(names.existing(name, "$.name")) > 1:
        raise invalid_params("$.name", "The name must be the file's own, without a folder.")


def _check(fd: int, access: str, system: System) -> None:
    """
    :raises OSError: where it is no regular file, or not open for that.
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
