"""A file before it is published: written in full without a name or under a hidden one, then published in one step.

Three kinds with one interface. :class:`AnonymousTemporary` leaves nothing behind when the process is killed;
:class:`NamedTemporary` is for systems and file systems without anonymous files. :class:`ClaimedName` is for those that
have neither a rename that replaces nothing nor hard links (exFAT, SMB on macOS): there the name is taken first.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from typing import TYPE_CHECKING

from locara_sidecar.capability.files.system import NOT_SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.files.system import System

_CHUNK = 1 << 20
# ENOENT: neither /proc nor the right to link by descriptor
_NO_ANONYMOUS = NOT_SUPPORTED | {errno.EISDIR, errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOENT}
_NO_LINKS = NOT_SUPPORTED | {errno.EPERM, errno.EXDEV, errno.EMLINK}


class UnsupportedError(Exception):
    """This file system has no such temporary; another kind may do."""


class Temporary:
    """A file being written in the folder ``parent``. It is discarded on leaving unless it was published."""

    def __init__(self, system: System, parent: int) -> None:
        self._system = system
        self._parent = parent
        self._fd = -1

    def __enter__(self) -> Temporary:
        self._create()
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()
        # closing tells nothing new: the contents were synced before, or the file is given up
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._system.close(self._fd)

    def fill(self, data: bytes, check: Callable[[], None]) -> None:
        """Write everything and bring it to the disk.

        :param check: called before each part; what it raises ends the writing.
        :raises OSError: as the calls fail; ENOSPC when the system takes no more bytes without saying why.
        """
        rest = memoryview(data)
        while rest:
            check()
            written = self._system.write(self._fd, rest[:_CHUNK])
            if written <= 0:
                raise OSError(errno.ENOSPC, "no more bytes were written")
            rest = rest[written:]
        check()
        self._system.sync(self._fd)

    def set_mode(self, mode: int) -> None:
        """The permissions of the file that this one will replace, where the file system has permissions."""
        try:
            self._system.set_mode(self._fd, mode)
        except OSError as error:
            if error.errno not in (*NOT_SUPPORTED, errno.EPERM):
                raise

    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        mine = self._system.file_status(self._fd)
        return mine.st_dev, mine.st_ino

    def is_at(self, name: str) -> bool:
        """Whether the name leads to this very file."""
        mine, there = self._system.file_status(self._fd), self._system.status(name, self._parent)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def publish_new(self, name: str) -> None:
        """Give the file its name.

        :raises FileExistsError: when the name is taken; the file can still be published under another.
        :raises UnsupportedError: when this kind cannot be published here.
        """
        raise NotImplementedError

    def publish_over(self, name: str) -> None:
        """Give the file its name in place of what has it now."""
        raise NotImplementedError

    def _create(self) -> None:
        raise NotImplementedError

    def _discard(self) -> None:
        raise NotImplementedError

    def _hidden(self) -> str:
        return f".locara-{secrets.token_hex(12)}.part"

    def _remove(self, name: str) -> None:
        # twice: the first failure may be the very one that is being cleaned up after
        try:
            self._system.unlink(name, self._parent)
        except OSError:
            with contextlib.suppress(OSError):
                self._system.unlink(name, self._parent)


class AnonymousTemporary(Temporary):
    """``O_TMPFILE``: the file has no name until it is complete (Linux)."""

    def _create(self) -> None:
        try:
            self._fd = self._system.create_anonymous(self._parent)
        except OSError as error:
            raise _unsupported(error, _NO_ANONYMOUS) from error

    def publish_new(self, name: str) -> None:
        """Link the file, which has no name yet."""
        try:
            self._system.link_anonymous(self._fd, name, self._parent)
        except OSError as error:
            raise _unsupported(error, _NO_ANONYMOUS) from error

    def publish_over(self, name: str) -> None:
        """Link it under a hidden name and rename that: a link replaces nothing."""
        hidden = self._hidden()
        self.publish_new(hidden)
        try:
            self._system.rename_over(hidden, name, self._parent)
        except BaseException:
            self._remove(hidden)
            raise

    def _discard(self) -> None:
        pass  # closing it is enough


class NamedTemporary(Temporary):
    """A hidden name in the same folder, exclusively made."""

    _name = ""

    def _create(self) -> None:
        name = self._hidden()
        self._fd = self._system.create_named(name, self._parent)
        self._name = name

    def publish_new(self, name: str) -> None:
        """Rename the hidden name, or link it where renaming would replace a file."""
        try:
            self._system.rename_new(self._name, name, self._parent)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            self._link(name)  # the hidden name is taken away on leaving
        else:
            self._name = ""

    def publish_over(self, name: str) -> None:
        """Rename the hidden name."""
        self._system.rename_over(self._name, name, self._parent)
        self._name = ""

    def _link(self, name: str) -> None:
        try:
            self._system.link_named(self._name, name, self._parent)
        except OSError as error:
            raise _unsupported(error, _NO_LINKS) from error

    def _discard(self) -> None:
        if self._name:
            self._remove(self._name)


class ClaimedName(Temporary):
    """The final name, exclusively made, and written into: nothing is ever overwritten, and a failure leaves nothing.

    What is lost: until it is complete, others see a file that grows, and a kill or a power cut leaves a part of it.
    Replacing a file goes by a hidden name as elsewhere, whole or not at all.
    """

    def __init__(self, system: System, parent: int) -> None:
        super().__init__(system, parent)
        self._data = b""
        self._mode: int | None = None

    def fill(self, data: bytes, check: Callable[[], None]) -> None:
        """Keep everything until there is a name to write it to."""
        check()
        self._data = data

    def set_mode(self, mode: int) -> None:
        """Keep them until there is a file that can have them."""
        self._mode = mode

    def publish_new(self, name: str) -> None:
        """Take the name and write."""
        self._write_to(name)

    def publish_over(self, name: str) -> None:
        """Write to a hidden name and rename that."""
        hidden = self._hidden()
        self._write_to(hidden)
        try:
            if self._mode is not None:
                super().set_mode(self._mode)
            self._system.rename_over(hidden, name, self._parent)
        except BaseException:
            self._remove(hidden)
            raise

    def _create(self) -> None:
        pass

    def _discard(self) -> None:
        pass

    def _write_to(self, name: str) -> None:
        self._fd = self._system.create_named(name, self._parent)
        try:
            super().fill(self._data, lambda: None)
        except BaseException:
            self._remove(name)
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                self._system.close(fd)
            raise


def _unsupported(error: OSError, meaning: frozenset[int]) -> Exception:
    return UnsupportedError(str(error)) if error.errno in meaning else error
