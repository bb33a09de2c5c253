"""Lists and removes a folder of any depth, because an engine may have left something malicious there."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NESTED = 64
"""Folders in folders that cannot be moved up: no more than a published model may have."""


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove the folder ``path`` and its contents; what cannot be removed stays. Follows no links, and never fails.

    A subfolder is moved up before it is emptied, so neither the stack, nor the descriptors, nor the length of a path
    grows with the depth.
    """
    if sys.platform == "win32":
        import shutil  # slow: it imports compression modules, which the daemon does not need

        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        top = os.open(path, os.O_RDONLY | _FOLDER)
        try:
            empty_tree(top)
        finally:
            os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the paths of everything except folders, at any depth; what lies too deep to have a path, or cannot be
    listed, is left out. Follows no links.
    """
    folders = [os.fspath(folder)]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.path
        except OSError:
            continue


def shown(path: str) -> str:
    """Return a printable path: names on Linux need not be valid UTF-8, and neither JSON nor a terminal accepts
    those.
    """
    return path.encode("utf-8", "replace").decode()


def empty_tree(top: int, depth: int = _NESTED) -> None:
    """Remove what is in an open folder; what cannot be removed stays. Follows no links, and never fails.

    :param depth: how many folders are entered where the file system does not let them be moved up.
    """
    with contextlib.suppress(OSError):
        if sys.platform != "win32":
            os.fchmod(top, 0o700)
    with contextlib.suppress(OSError):
        _empty(top, depth)


def _empty(top: int, depth: int) -> None:
    names = _unused(top)
    folders = _unlink_files(top)
    while folders:
        name = folders.pop()
        try:
            folder = _open(name, top)
        except OSError:
            continue
        try:
            for inner in _unlink_files(folder):
                moved = next(names)
                with contextlib.suppress(OSError):
                    _let_move(inner, folder)
                    try:
                        os.rename(inner, moved, src_dir_fd=folder, dst_dir_fd=top)
                    except OSError as error:
                        if error.errno != errno.EXDEV or not depth:
                            raise
                        _remove_in_place(inner, folder, depth - 1)
                        continue
                    folders.append(moved)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=top)


def _remove_in_place(name: str, parent: int, depth: int) -> None:
    folder = _open(name, parent)
    try:
        empty_tree(folder, depth)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _unlink_files(folder: int) -> list[str]:
    """Remove everything except folders; return the folders' names."""
    inner: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=folder)
    return inner


def _open(name: str, parent: int) -> int:
    """Open a folder.

    :raises OSError: if it is not a folder, or not ours.
    """
    _let_move(name, parent)
    return os.open(name, os.O_RDONLY | _FOLDER, dir_fd=parent)


def _let_move(name: str, parent: int) -> None:
    """Give us back the permissions on a folder whose creator removed them all; never on a link's target."""
    if os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode & 0o700 == 0o700:
        return
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "the permissions of a link itself cannot be changed")
    held = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)  # Linux: a descriptor's own path follows no further links
    try:
        os.chmod(f"/proc/self/fd/{held}", 0o700)
    finally:
        os.close(held)


def _unused(top: int) -> Iterator[str]:
    """Yield names that do not exist in the folder."""
    taken = set(os.listdir(top))
    number = 0
    while True:
        number += 1
        name = f".removed-{number}"
        if name not in taken:
            yield name
