"""A file before it is published: written in full without a name or under a hidden one, then published in one step.

There are three kinds with one interface. :class:`AnonymousTemporary` leaves nothing behind if the process is killed;
:class:`NamedTemporary` is for systems and file systems without anonymous files. :class:`ClaimedName` is for those with
neither exclusive renames nor hard links (exFAT, SMB on macOS): there the name is taken first.
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
# EPERM and EACCES: also what a confinement of the whole app answers (snap's), which allows to create files
_REFUSED = NOT_SUPPORTED | {errno.EPERM, errno.EACCES}
# ENOENT: neither /proc nor the right to link by descriptor; and file systems that count no links
_NO_LINKS = _REFUSED | {errno.EXDEV, errno.EMLINK, errno.ENOENT}
_NO_ANONYMOUS = _NO_LINKS | {errno.EISDIR}


class UnsupportedError(Exception):
    """This file system does not support this kind; another may work."""


class Temporary:
    """A file being written in the folder ``parent``. It is discarded on exit unless it was published."""

    def __init__(self, system: System, parent: int) -> None:
        self._system = system
        self._parent = parent
        self._fd = -1

    def __enter__(self) -> Temporary:
        self._create()
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()
        # an error from closing adds nothing: the contents were synced before, or the file is discarded
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._system.close(self._fd)

    def fill(self, data: bytes, check: Callable[[], None]) -> None:
        """Write everything and flush it to disk.

        :param check: called before each part; raising ends the writing.
        :raises OSError: if a call fails; ENOSPC if the system takes no more bytes without saying why.
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
        """Copy the permissions of the file that this one will replace, if the file system has permissions."""
        try:
            self._system.set_mode(self._fd, mode)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise

    def identity(self) -> tuple[int, int]:
        """Return device and inode."""
        mine = self._system.file_status(self._fd)
        return mine.st_dev, mine.st_ino

    def is_at(self, name: str) -> bool:
        """Whether the name leads to this very file."""
        mine, there = self._system.file_status(self._fd), self._system.status(name, self._parent)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def publish_new(self, name: str) -> None:
        """Give the file its name.

        :raises FileExistsError: if the name is taken; the file can still be published under another.
        :raises UnsupportedError: if this kind cannot be published here.
        """
        raise NotImplementedError

    def publish_over(self, name: str) -> None:
        """Give the file its name, replacing what has it now."""
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
        """Link it under a hidden name and rename that, because a link cannot replace a file."""
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
    """A hidden name in the same folder, created exclusively."""

    _name = ""

    def _create(self) -> None:
        name = self._hidden()
        self._fd = self._system.create_named(name, self._parent)
        self._name = name

    def publish_new(self, name: str) -> None:
        """Rename the hidden name, or link it if renaming would replace a file."""
        try:
            self._system.rename_new(self._name, name, self._parent)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._link(name)  # the hidden name is removed on exit
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
    """The final name, created exclusively and written to: nothing is ever overwritten, and a failure leaves nothing.

    The drawback: until it is complete, others see a growing file, and a kill or a power cut leaves a partial one.
    Replacing a file goes through a hidden name as elsewhere, whole or not at all.
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
        """Keep the permissions until there is a file to apply them to."""
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
