"""Saving into a granted folder: never outside it, never half a file, never over one of the user's by accident.

The folder is held by a descriptor and every further name is looked up from there, one component at a
time and through no link, so that swapping folders and links meanwhile leads nowhere else (comparing
resolved paths does not hold against that). The granted folder itself may be reached through links: the
host resolved it and answers for it. A folder that is moved away while a file is being saved into it takes
the file along, as it would a moment later.
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
from locara_sidecar.capability import names
from locara_sidecar.capability.authorize import FolderGrant
from locara_sidecar.capability.system import AVAILABLE, NOT_SUPPORTED, System
from locara_sidecar.capability.temporary import Anonymous, Named, Temporary, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

OnConflict = Literal["rename", "error", "overwrite"]
Resolution = Literal["auto", "openat2", "walk"]
Kind = Literal["auto", "anonymous", "named"]

MAX_NUMBER = 10_000
"""How many files of one name ``rename`` will number."""

_RACES = 16
_MAX_SHOWN = 256
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_PASSING = (errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


@dataclass(frozen=True)
class Saved:
    """Where a file was published: absolute, and relative to its root with ``/`` between components."""

    path: str
    relative_path: str


class ConfinedFolder:
    """A granted folder, open.

    :param resolution: how folders below it are found; ``auto`` takes openat2 where the system has it.
    :param temporary: what an unfinished file is; ``auto`` takes an anonymous one where the file system has them.
    :raises RpcError: StorageError when the folder is not there or cannot be opened.
    """

    def __init__(
        self,
        grant: FolderGrant,
        *,
        resolution: Resolution = "auto",
        temporary: Kind = "auto",
        system: System | None = None,
    ) -> None:
        if type(grant) is not FolderGrant or grant.access != "write":
            raise TypeError("a folder is opened with a grant to write")
        self._system = system or System()
        self._grant = grant
        self._kinds: tuple[type[Temporary], ...] = {
            "auto": (Anonymous, Named),
            "anonymous": (Anonymous,),
            "named": (Named,),
        }[temporary]
        self._fd = -1
        if not AVAILABLE:
            raise RpcError("StorageError", "Files cannot be saved safely on this system.", errno="ENOSYS")
        try:
            self._fd = self._system.open_root(str(grant.folder))
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            why = _NO_ROOT.get(number or 0, "cannot be opened")
            raise _storage_error(f"The folder that was granted as {grant.root} {why}.", number) from error
        self._one_call = resolution != "walk" and (self._probe() or resolution == "openat2")

    def __enter__(self) -> ConfinedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; closing twice is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._close(fd)

    def save(
        self, relative: str, data: bytes, on_conflict: OnConflict, *, cancelled: Callable[[], bool] | None = None
    ) -> Saved:
        """Publish ``data`` as the file ``relative``, with the folders on the way. It blocks; call it in a thread.

        When it raises, nothing was published and nothing is left over, with one exception: a file that
        ``overwrite`` replaced stays replaced, complete, if only the folder's own sync failed.

        :param on_conflict: for a name that is taken: take ``name-2.png``, fail, or replace the file.
        :param cancelled: asked until shortly before the file gets its name.
        :raises RpcError: InvalidParams for a path that is never allowed; InsufficientDisk; RequestCancelled;
            StorageError with ``errno`` for everything else.
        """
        *folders, name = names.split(relative)

        def check() -> None:
            if cancelled is not None and cancelled():
                raise RpcError("RequestCancelled", "The request was cancelled.")

        try:
            with self._entered(folders) as parent:
                published = self._store(parent, name, data, on_conflict, check)
        except OSError as error:
            raise self._explained(error, relative, len(data)) from error
        except Unsupported as error:
            message = f"The file system of {self._grant.root} has no way to save without the risk of overwriting."
            raise _storage_error(message, errno.ENOTSUP) from error
        relative_path = "/".join([*folders, published])
        return Saved(str(self._grant.folder.joinpath(*folders, published)), relative_path)

    # --- finding the folder --------------------------------------------------------------

    def _probe(self) -> bool:
        try:
            self._close(self._system.open_beneath(".", self._fd))
        except OSError:  # an old kernel, or a filter that forbids the call
            return False
        return True

    @contextlib.contextmanager
    def _entered(self, folders: list[str]) -> Generator[int]:
        """A descriptor of the folder, made where it is missing; what was made goes again if the block fails."""
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
        if self._fd < 0:
            raise OSError(errno.EBADF, "the folder was closed")
        if self._one_call and folders:
            with contextlib.suppress(FileNotFoundError):
                return self._held(self._system.open_beneath("/".join(folders), self._fd), stack)
        parent = self._fd
        for folder in folders:
            parent = self._held(self._child(folder, parent, made), stack)
        return parent

    def _child(self, folder: str, parent: int, made: list[tuple[str, int]]) -> int:
        enter = self._system.open_beneath if self._one_call else self._system.open_folder
        for _ in range(_RACES):
            try:
                return enter(folder, parent)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    self._system.make_folder(folder, parent)
                    made.append((folder, parent))
                    self._sync_folder(parent)
            except NotADirectoryError:
                if stat.S_ISLNK(self._system.status(folder, parent).st_mode):
                    raise OSError(errno.ELOOP, "a link") from None
                raise
        raise FileNotFoundError(errno.ENOENT, "the folder vanishes as it is made")

    def _held(self, fd: int, stack: contextlib.ExitStack) -> int:
        stack.callback(self._close, fd)
        return fd

    def _close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._system.close(fd)

    # --- the file ------------------------------------------------------------------------

    def _store(self, parent: int, name: str, data: bytes, on_conflict: OnConflict, check: Callable[[], None]) -> str:
        last: Unsupported | None = None
        for kind in self._kinds:
            try:
                with kind(self._system, parent) as file:
                    file.fill(data, check)
                    check()
                    return self._publish(file, parent, name, on_conflict)
            except Unsupported as error:
                last = error
        raise last or Unsupported("no kind of temporary file")

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
        raise FileExistsError(errno.EEXIST, "every number is taken")

    def _replace(self, file: Temporary, parent: int, name: str) -> bool:
        """Publish over a regular file, or as a new one; whether there was one."""
        for _ in range(_RACES):
            try:
                there = self._system.status(name, parent)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    file.publish_new(name)
                    return False
                continue
            if not stat.S_ISREG(there.st_mode):
                raise OSError(_NOT_A_FILE.get(stat.S_IFMT(there.st_mode), errno.EINVAL), "not a regular file")
            if not there.st_mode & 0o222:
                raise PermissionError(errno.EACCES, "a file that was made read-only")
            file.set_mode(stat.S_IMODE(there.st_mode) & 0o777)
            file.publish_over(name)
            return True
        raise FileExistsError(errno.EEXIST, "the file comes and goes")

    def _sync_folder(self, fd: int) -> None:
        try:
            self._system.sync(fd)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:  # some network file systems sync files only
                raise

    # --- errors --------------------------------------------------------------------------

    def _explained(self, error: OSError, relative: str, needed: int) -> RpcError:
        what = shown(relative, _MAX_SHOWN)
        if error.errno in _FULL:
            try:
                available = self._system.available(self._fd)
            except OSError:
                available = 0
            message = f"The disk is too full to save {what}."
            return RpcError("InsufficientDisk", message, needed=needed, available=available)
        why = _WHY.get(error.errno or 0) or os.strerror(error.errno or 0)
        return _storage_error(f"{what} cannot be saved in {self._grant.root}: {why}.", error.errno)


_NO_ROOT = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a folder"}

_NOT_A_FILE = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}

_WHY = {
    errno.EEXIST: "there is a file of this name",
    errno.ELOOP: "it leads through a link, or is one",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "there is a folder of this name",
    errno.EINVAL: "what has this name is not a regular file, or the file system refuses the name",
}


def _storage_error(message: str, number: int | None) -> RpcError:
    symbol = errno.errorcode.get(number or 0, str(number))
    return RpcError("StorageError", message, retryable=number in _PASSING, errno=symbol)
