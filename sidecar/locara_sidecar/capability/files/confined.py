"""Saves into a granted folder: never outside it, never a partial file, and never over an existing file by accident.

Holding the folder open and walking down from it is in :mod:`locara_sidecar.capability.files.held`. If a folder is moved
while a file is being saved into it, the file moves with it, as it would a moment later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from locara_protocol.errors import RpcError
from locara_protocol.wording import shown
from locara_sidecar.capability.files import names
from locara_sidecar.capability.files.held import MAX_SHOWN, NOT_A_FILE, HeldFolder, Resolution, privacy, storage_error
from locara_sidecar.capability.files.system import NOT_SUPPORTED, System
from locara_sidecar.capability.files.temporary import (
    AnonymousTemporary,
    ClaimedName,
    NamedTemporary,
    Temporary,
    UnsupportedError,
)
from locara_sidecar.machine import disk_space

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from locara_sidecar.capability.authorize import FolderGrant

OnConflict = Literal["rename", "error", "overwrite"]
Kind = Literal["auto", "anonymous", "named", "claimed"]

MAX_NUMBER = 10_000
"""The highest number that ``rename`` appends to a file's name."""

_RACES = 16


@dataclass(frozen=True)
class Saved:
    """Where a file was published: absolute, and relative to its root with ``/`` between components."""

    path: str
    relative_path: str


class ConfinedFolder(HeldFolder):
    """A granted folder, open for saving.

    :param resolution: how folders below it are found; ``auto`` uses openat2 if the system has it.
    :param temporary: the kind of an unfinished file; ``auto`` uses an anonymous one if the file system has them.
    :raises RpcError: StorageError if the folder does not exist or cannot be opened.
    """

    def __init__(
        self,
        grant: FolderGrant,
        *,
        resolution: Resolution = "auto",
        temporary: Kind = "auto",
        system: System | None = None,
    ) -> None:
        super().__init__(grant, "write", resolution, system)
        self._kinds: tuple[type[Temporary], ...] = {
            "auto": (AnonymousTemporary, NamedTemporary, ClaimedName),
            "anonymous": (AnonymousTemporary,),
            "named": (NamedTemporary,),
            "claimed": (ClaimedName,),
        }[temporary]

    def save(
        self,
        relative: str,
        data: bytes,
        on_conflict: OnConflict,
        *,
        cancelled: Callable[[], bool] | None = None,
        begin: Callable[[], bool] | None = None,
    ) -> Saved:
        """Publish ``data`` as the file ``relative``, creating missing folders. Blocks; call it in a thread.

        If it raises, nothing was published and nothing is left behind, with one exception: a file that ``overwrite``
        replaced stays replaced, complete, if only the folder's own sync failed.

        :param on_conflict: if the name is taken: use ``name-2.png``, fail, or replace the file.
        :param cancelled: called repeatedly until shortly before the file gets its name.
        :param begin: called last, once for each way of publishing that is tried; returns False if nobody waits for the
            file any more.
        :raises RpcError: InvalidParams for a path that is never allowed; InsufficientDisk; RequestCancelled;
            StorageError with ``errno`` for everything else.
        """
        *folders, name = names.split(relative)
        return self._save(folders, name, data, on_conflict, cancelled, begin)

    def _save(
        self,
        folders: list[str],
        name: str,
        data: bytes,
        on_conflict: OnConflict,
        cancelled: Callable[[], bool] | None,
        begin: Callable[[], bool] | None = None,
    ) -> Saved:
        relative = "/".join([*folders, name])

        def check() -> None:
            if cancelled is not None and cancelled():
                raise RpcError("RequestCancelled", "The request was cancelled.")

        def last_check() -> None:
            check()
            if begin is not None and not begin():
                raise RpcError("RequestCancelled", "The request was cancelled.")

        try:
            with self._entered(folders) as parent:
                published = self._store(parent, name, data, on_conflict, check, last_check)
        except OSError as error:
            raise self._explained(error, relative, len(data)) from error
        except UnsupportedError as error:
            message = f"The file system of {self._grant.root} cannot save a file without the risk of overwriting one."
            raise storage_error(message, errno.ENOTSUP) from error
        relative_path = "/".join([*folders, published])
        return Saved(str(self._grant.folder.joinpath(*folders, published)), relative_path)

    # --- finding the folder --------------------------------------------------------------

    @contextlib.contextmanager
    def _entered(self, folders: list[str]) -> Generator[int]:
        """Yield a descriptor of the folder, created if missing; what was created is removed again if the block
        fails.
        """
        made: list[tuple[str, int]] = []
        with contextlib.ExitStack() as stack:
            try:
                yield self._descend(folders, made, stack)
            except BaseException:
                for name, parent in reversed(made):
                    with contextlib.suppress(OSError):
                        self._system.remove_folder(name, parent)
                raise

    def _descend(self, folders: list[str], made: list[tuple[str, int]], stack: contextlib.ExitStack) -> int:
        if self._one_call and folders:
            with contextlib.suppress(FileNotFoundError):
                return self._find(folders, stack)
        parent = self._root()
        for folder in folders:
            parent = self._held(self._child(folder, parent, made), stack)
        return parent

    def _child(self, folder: str, parent: int, made: list[tuple[str, int]]) -> int:
        for _ in range(_RACES):
            try:
                return self._step(folder, parent)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    self._system.make_folder(folder, parent)
                    made.append((folder, parent))
                    self._sync_folder(parent)
        raise FileNotFoundError(errno.ENOENT, "the folder is removed as soon as it is created")

    # --- the file ------------------------------------------------------------------------

    def _store(
        self,
        parent: int,
        name: str,
        data: bytes,
        on_conflict: OnConflict,
        check: Callable[[], None],
        last_check: Callable[[], None],
    ) -> str:
        last: UnsupportedError | None = None
        for kind in self._kinds:
            try:
                with kind(self._system, parent) as file:
                    file.fill(data, check)
                    last_check()
                    return self._publish(file, parent, name, on_conflict)
            except UnsupportedError as error:
                last = error
        raise last or UnsupportedError("no kind of temporary file")

    def _publish(self, file: Temporary, parent: int, name: str, on_conflict: OnConflict) -> str:
        if on_conflict == "overwrite":
            if self._replace(file, parent, name):
                self._sync_folder(parent)
                return name
        elif on_conflict == "rename":
            name = self._number(file, name)
        else:
            file.publish_new(name)
        try:
            self._sync_folder(parent)
        except OSError:
            with contextlib.suppress(OSError):
                if file.is_at(name):
                    self._system.unlink(name, parent)
            raise
        return name

    def _number(self, file: Temporary, name: str) -> str:
        for number in range(1, MAX_NUMBER + 1):
            candidate = name if number == 1 else names.numbered(name, number)
            with contextlib.suppress(FileExistsError):
                file.publish_new(candidate)
                return candidate
        raise FileExistsError(errno.EEXIST, "every numbered name is taken")

    def _replace(self, file: Temporary, parent: int, name: str) -> bool:
        """Publish over a regular file, or as a new one; return whether there was one."""
        for _ in range(_RACES):
            try:
                there = self._system.status(name, parent)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    file.publish_new(name)
                    return False
                continue
            if not stat.S_ISREG(there.st_mode):
                raise OSError(NOT_A_FILE.get(stat.S_IFMT(there.st_mode), errno.EINVAL), "not a regular file")
            if not there.st_mode & 0o222:
                raise PermissionError(errno.EACCES, "a file that was made read-only")
            self._check_replaced(there)
            file.set_mode(stat.S_IMODE(there.st_mode) & 0o777)
            file.publish_over(name)
            return True
        raise FileExistsError(errno.EEXIST, "the file keeps appearing and disappearing")

    def _check_replaced(self, there: os.stat_result) -> None:
        """Check that the existing file is a regular one that may be replaced.

        :raises OSError: if it may not.
        """

    def _sync_folder(self, fd: int) -> None:
        try:
            self._system.sync(fd)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:  # some network file systems can sync only files
                raise

    # --- errors --------------------------------------------------------------------------

    def _explained(self, error: OSError, relative: str, needed: int) -> RpcError:
        what = shown(relative, MAX_SHOWN)
        if error.errno in disk_space.FULL:
            try:
                available = self._system.available(self._fd)
            except OSError:
                available = 0
            message = f"{what} cannot be saved. {disk_space.why_full(error.errno, self._fd, needed, available)}"
            return RpcError("InsufficientDisk", message, needed=needed, available=available)
        why = privacy(error.errno) or _WHY.get(error.errno or 0) or os.strerror(error.errno or 0)
        return storage_error(f"{what} cannot be saved in {self._grant.root}: {why}.", error.errno)


_WHY = {
    errno.EEXIST: "a file with this name already exists",
    errno.ELOOP: "it is a link, or its path contains one",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "a folder with this name already exists",
    errno.EINVAL: "the name belongs to something that is not a regular file, or the file system refuses it",
}
