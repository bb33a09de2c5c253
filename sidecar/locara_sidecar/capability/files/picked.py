"""Files that the user picked in a dialog, and only those.

A file to read is opened when it is picked. For a file to write, its folder is held open and the existing file, if any,
is remembered: the user confirmed in the dialog that this file may be replaced, not another one that takes its name
later. Links are followed once, at that moment; a rename or a link made afterwards leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Literal

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.capability.authorize import Access, Grant, folder_of_pick
from locara_sidecar.capability.files import names
from locara_sidecar.capability.files.confined import ConfinedFolder, OnConflict, Saved
from locara_sidecar.capability.files.held import NOT_A_FILE, privacy, storage_error
from locara_sidecar.capability.files.reading import ReadableFile, ReadableFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.authorize import FolderGrant
    from locara_sidecar.capability.files.system import System
    from locara_sidecar.capability.files.temporary import Temporary

PATH = "$.path"
_SPARE = 64
"""Descriptors left for the daemon's own work; a system may allow a process no more than 256."""


class PickedFile:
    """One picked file. It stays open until it is released and the last call that uses it has ended.

    Used on the event loop's thread only, except for reading and saving.

    :param name: the file's own, without its folder.
    """

    access: Access
    held_bytes = 0
    """How much memory it takes while it is open, in bytes."""

    def __init__(self, name: str, close: Callable[[], None]) -> None:
        self.name = name
        self._close = close
        self._users = 1

    def hold(self) -> None:
        """Count one more call that uses it."""
        if not self._users:
            raise ValueError("the file was released")
        self._users += 1

    def leave(self) -> bool:
        """Count one user fewer: a call, or the pick itself; return whether it was the last, who must :meth:`close`."""
        self._users -= 1
        return not self._users

    def close(self) -> None:
        """Close the file, which nobody uses any more. May block on the file system; call it in a thread."""
        self._close()


class PickedSource(PickedFile):
    """A file to read.

    :param size: in bytes, when it was picked.
    """

    access = "read"

    def __init__(self, name: str, file: ReadableFile) -> None:
        super().__init__(name, file.close)
        self._file = file
        self.size = file.size()

    def seen_at(self, at: str) -> ReadableFile:
        """Return the file for one call, which must not close it.

        :param at: the parameter that names it there, for errors.
        """
        return self._file.seen_at(at)


class PickedTarget(PickedFile):
    """A file to write."""

    access = "write"

    def __init__(self, name: str, folder: _TargetFolder) -> None:
        super().__init__(name, folder.close)
        self._folder = folder

    def check(self) -> None:
        """Check that it could be saved now; may block on the file system.

        :raises RpcError: StorageError if another file has its name by now.
        """
        self._folder.check()

    def save(
        self, data: bytes, *, cancelled: Callable[[], bool] | None = None, begin: Callable[[], bool] | None = None
    ) -> None:
        """Publish ``data`` as the picked file, whole or not at all. Blocks; call it in a thread.

        :raises RpcError: as :meth:`ConfinedFolder.save`.
        """
        self._folder.save_picked(data, cancelled, begin)


class _TargetFolder(ConfinedFolder):
    """The folder of a file to write, which accepts only that file."""

    def __init__(self, grant: FolderGrant, name: str, *, system: System | None = None) -> None:
        super().__init__(grant, system=system)
        try:
            self._ours = self._look(name)
        except OSError as error:
            self.close()
            raise _explained(error, name) from error
        try:
            # an existing file may have any name; a new one gets a name that means the same everywhere
            self.name = name if self._ours is not None else names.split(name, PATH)[-1]
        except RpcError:
            self.close()
            raise

    def check(self) -> None:
        try:
            there = self._look(self.name)
            if there is not None and there != self._ours:
                raise FileExistsError(errno.EEXIST, "another file")
        except OSError as error:
            raise self._explained(error, self.name, 0) from error

    def save_picked(
        self, data: bytes, cancelled: Callable[[], bool] | None, begin: Callable[[], bool] | None = None
    ) -> None:
        self._save([], self.name, data, "error" if self._ours is None else "overwrite", cancelled, begin)

    def save(
        self,
        relative: str,
        data: bytes,
        on_conflict: OnConflict,
        *,
        cancelled: Callable[[], bool] | None = None,
        begin: Callable[[], bool] | None = None,
    ) -> Saved:
        del relative, data, on_conflict, cancelled, begin
        raise TypeError("this folder was not granted, only one file in it")

    def _publish(self, file: Temporary, parent: int, name: str, on_conflict: OnConflict) -> str:
        published = super()._publish(file, parent, name, on_conflict)
        self._ours = file.identity()  # the next save replaces it
        return published

    def _check_replaced(self, there: os.stat_result) -> None:
        if (there.st_dev, there.st_ino) != self._ours:
            raise FileExistsError(errno.EEXIST, "another file now has this name")

    def _look(self, name: str) -> tuple[int, int] | None:
        """Return the identity of the file with that name; None if there is none.

        :raises OSError: if it is not a regular file.
        """
        try:
            there = self._system.status(name, self._root())
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(there.st_mode):
            raise OSError(NOT_A_FILE.get(stat.S_IFMT(there.st_mode), errno.EINVAL), "not a regular file")
        return there.st_dev, there.st_ino


def pick(
    grant: Grant, path: str, access: Literal["read", "write"], extensions: tuple[str, ...], system: System | None = None
) -> PickedFile:
    """Open what the user picked. May block on the file system; call it in a thread.

    :param grant: the gate's grant for this very call.
    :param path: absolute.
    :param extensions: allowed extensions of a file to write, in lower case.
    :raises RpcError: InvalidParams for a path that is never allowed; StorageError with ``errno``.
    """
    folder, name = os.path.split(os.path.realpath(path))
    (name,) = names.existing(name, PATH)
    held = folder_of_pick(grant, folder)
    if access == "read":
        with ReadableFolder(held, system=system) as opened:
            file = opened.open(name, PATH)
        try:
            picked: PickedFile = PickedSource(name, file)
        except RpcError:
            file.close()
            raise
        highest = file.descriptor()
    else:
        check_extension(PATH, name, extensions)
        target = _TargetFolder(held, name, system=system)
        picked = PickedTarget(target.name, target)
        highest = target.descriptor()
    try:
        check_room(highest, PATH)
    except RpcError:
        picked.close()
        raise
    return picked


def check_extension(at: str, name: str, extensions: tuple[str, ...]) -> None:
    """Check that a file to write has a picture's extension.

    :raises RpcError: InvalidParams.
    """
    if os.path.splitext(name)[1].lower() not in extensions:
        raise invalid_params(at, f"The name of a file to write must end with {', '.join(extensions)}.")


def check_room(descriptor: int, at: str) -> None:
    """Check that enough descriptors are left besides this one.

    :raises RpcError: StorageError with EMFILE.
    """
    if descriptor >= _descriptors() - _SPARE:
        raise storage_error("Too many files are open; release some.", errno.EMFILE, path=at)


def check_path(path: str) -> None:
    """Check that a path could come from a dialog, without accessing the file.

    :raises RpcError: InvalidParams.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise invalid_params(PATH, "The path is not valid Unicode.") from None
    if "\0" in path:
        raise invalid_params(PATH, "The path must not contain a NUL character.")
    if not os.path.isabs(path):
        raise invalid_params(PATH, "The path must be absolute, as file dialogs return it.")
    if not os.path.basename(path):
        raise invalid_params(PATH, "The path names a folder; only files can be picked.")


def _descriptors() -> int:
    """Return how many descriptors this process may have."""
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _explained(error: OSError, name: str) -> RpcError:
    why = {errno.ELOOP: "it is a link", errno.EISDIR: "it is a folder", errno.EINVAL: "it is not a regular file"}
    what = privacy(error.errno) or why.get(error.errno or 0) or os.strerror(error.errno or 0)
    return storage_error(f"{name} cannot be picked: {what}.", error.errno, path=PATH)
