"""Hides a model in one step, before its bytes are deleted.

Its folder is renamed; where that cannot be, its ``meta.json`` is: a container's file system, for one, renames no folder
that came with the image. A folder without ``meta.json`` is no model (``store.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from locara_sidecar.machine.processes.trees import empty_tree, remove_tree
from locara_sidecar.models.cache import disk
from locara_sidecar.models.cache.digest import META

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.models.cache.store import Store

_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | disk.CLOEXEC


class Aside:
    """A hidden model. It is put back or, if that fails, its name is freed or it is deleted.

    :param folder: where it was.
    :param gone: where it is, or only its ``meta.json``.
    :param fd: in the latter case the open folder, whatever has its name by now.
    """

    def __init__(self, folder: Path, gone: Path, fd: int | None) -> None:
        self._folder = folder
        self._gone = gone
        self._fd = fd

    def put_back(self) -> None:
        """Make it visible again.

        :raises OSError: if the same model was installed again meanwhile.
        """
        if self._fd is None:
            os.rename(self._gone, self._folder)
            return
        os.rename(self._gone / META, META, dst_dir_fd=self._fd)  # not into a folder that was removed meanwhile
        with contextlib.suppress(OSError):  # it is back: whatever fails now, nothing of it may be deleted
            disk.sync_file(self._fd)
            self._gone.rmdir()
        self._close()

    def delete(self) -> None:
        """Delete its bytes."""
        self.free_name()
        remove_tree(self._gone)

    def free_name(self) -> None:
        """Leave its bytes to ``gc``, unless they are in the way of whoever installs it again."""
        if self._fd is not None:
            empty_tree(self._fd)
            self._close()
            with contextlib.suppress(OSError):  # installed again meanwhile
                self._folder.rmdir()

    def _close(self) -> None:
        fd, self._fd = self._fd, None  # its number may soon be that of another folder, which must not be emptied
        if fd is not None:
            os.close(fd)


def set_aside(store: Store, key: str) -> Aside | None:
    """Hide a model; None if it is gone already.

    :raises OSError: if it cannot be hidden.
    """
    folder, gone = store.models / key, store.incoming / f"gone-{secrets.token_hex(8)}"
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return Aside(folder, gone, _hide(folder, gone))
    disk.sync_folder(store.models)
    return Aside(folder, gone, None)


def finish(folder: Path) -> bool:
    """Delete what is left of a model whose ``meta.json`` was hidden by a process that did not get further; return
    whether that was so. Whatever has been installed there meanwhile stays.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | _FOLDER)
    except OSError:
        return False
    try:
        os.stat(META, dir_fd=fd)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            Aside(folder, folder, fd).free_name()
        return True
    except OSError:
        pass
    os.close(fd)
    return False


def _hide(folder: Path, gone: Path) -> int:
    """Move ``meta.json`` only; return the folder, opened. Synced, because the bytes are deleted next."""
    fd = os.open(folder, os.O_RDONLY | _FOLDER)
    try:
        disk.make_folder(gone)
        with contextlib.suppress(FileNotFoundError):
            os.rename(META, gone / META, src_dir_fd=fd)
        disk.sync_file(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd
