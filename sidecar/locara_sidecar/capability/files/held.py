"""A granted folder, held open, and how to walk down from it: one component at a time, without following links.

The folder is held by a descriptor and every name is looked up relative to it, so that swapping folders and links
meanwhile leads nowhere else (comparing resolved paths does not protect against that). The granted folder itself may be
reached through links: the host resolved it and vouches for it.
"""

from __future__ import annotations

import contextlib
import errno
import stat
import sys
from typing import TYPE_CHECKING, Literal, Self

from locara_protocol.errors import RpcError
from locara_protocol.manifest import USER_SELECTED
from locara_sidecar.capability.authorize import Access, FolderGrant
from locara_sidecar.capability.files.system import AVAILABLE, System

if TYPE_CHECKING:
    from collections.abc import Sequence

Resolution = Literal["auto", "openat2", "walk"]

MAX_SHOWN = 256
"""The longest path, in characters, that a message repeats."""

NOT_A_FILE = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}
"""The error for something that has a file's name but is not one; EINVAL for any other non-regular file."""

_PASSING = (errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)
_NO_ROOT = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a folder"}


class HeldFolder:
    """A granted folder, open.

    :param access: what the grant must permit.
    :param resolution: how folders below it are found; ``auto`` uses openat2 if the system has it.
    :raises RpcError: StorageError if the folder does not exist or cannot be opened.
    """

    def __init__(self, grant: FolderGrant, access: Access, resolution: Resolution, system: System | None) -> None:
        if type(grant) is not FolderGrant or grant.access != access:
            raise TypeError(f"a folder is opened with a grant to {access}")
        self._system = system or System()
        self._grant = grant
        self._fd = -1
        if not AVAILABLE:
            message = "Files in granted folders cannot be used safely on this system."
            raise RpcError("StorageError", message, errno="ENOSYS")
        try:
            self._fd = self._system.open_root(str(grant.folder))
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            why = _NO_ROOT.get(number or 0) or ("cannot be opened" + (f": {ask}" if (ask := privacy(number)) else ""))
            picked = grant.root == USER_SELECTED
            what = "The folder of the picked file" if picked else f"The folder that was granted as {grant.root}"
            raise storage_error(f"{what} {why}.", number, **({"path": "$.path"} if picked else {})) from error
        self._one_call = resolution != "walk" and (self._probe() or resolution == "openat2")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def descriptor(self) -> int:
        """The folder's descriptor; -1 once it has been closed."""
        return self._fd

    def close(self) -> None:
        """Close the folder; closing it twice is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._close(fd)

    def _probe(self) -> bool:
        try:
            self._close(self._system.open_beneath(".", self._fd))
        except OSError:  # an old kernel, or a filter that forbids the call
            return False
        return True

    def _root(self) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the folder was closed")
        return self._fd

    def _find(self, folders: Sequence[str], stack: contextlib.ExitStack) -> int:
        """Return a descriptor of an existing folder any number of components down; closed with ``stack``."""
        parent = self._root()
        if self._one_call and folders:
            return self._held(self._system.open_beneath("/".join(folders), parent), stack)
        for folder in folders:
            parent = self._held(self._step(folder, parent), stack)
        return parent

    def _step(self, folder: str, parent: int) -> int:
        """Go one component down."""
        enter = self._system.open_beneath if self._one_call else self._system.open_folder
        try:
            return enter(folder, parent)
        except NotADirectoryError:
            if stat.S_ISLNK(self._system.status(folder, parent).st_mode):
                raise OSError(errno.ELOOP, "a link") from None
            raise

    def _held(self, fd: int, stack: contextlib.ExitStack) -> int:
        stack.callback(self._close, fd)
        return fd

    def _close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._system.close(fd)


def privacy(number: int | None) -> str | None:
    """Advise what to do about EPERM on macOS if it comes from the privacy settings and not from the file's permissions:
    the system asks once whether an app may use Documents, Desktop, Downloads, a network volume or a removable one.
    """
    if sys.platform != "darwin" or number != errno.EPERM:
        return None
    return (
        "macOS denies this app access; the user can allow it in System Settings, Privacy & Security, Files and Folders"
    )


def storage_error(message: str, number: int | None, **data: str) -> RpcError:
    """Build a StorageError with the symbol of a system's error number."""
    symbol = errno.errorcode.get(number or 0, str(number))
    return RpcError("StorageError", message, retryable=number in _PASSING, errno=symbol, **data)
