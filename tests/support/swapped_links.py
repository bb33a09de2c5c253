"""A granted folder in which another process swaps a folder and a link that leads outside. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_EXCHANGE = 2
_AT_FDCWD = -100


@contextlib.contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """Run a child that works until it is killed."""
    assert sys.platform != "win32"
    child = os.fork()
    if child == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Arena:
    """A granted folder whose ``sub`` alternates between a folder and a link that leads outside, as fast as possible."""

    def __init__(self, where: Path) -> None:
        assert sys.platform != "win32"
        self.root, self.outside = where / "root", where / "outside"
        for folder in (self.root / "sub", self.outside):
            (folder / "deep").mkdir(parents=True)
        (self.root / "link").symlink_to(self.outside)
        self._real = os.open(self.root / "sub", os.O_RDONLY | os.O_DIRECTORY)

    def swap(self) -> None:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
        one, two = os.fsencode(self.root / "sub"), os.fsencode(self.root / "link")
        for _ in range(50):
            exchange(_AT_FDCWD, one, _AT_FDCWD, two, _EXCHANGE)

    def escaped(self) -> int:
        """Return files that are outside, including hidden and unfinished ones."""
        return sum(len(files) for _, _, files in os.walk(self.outside))

    def tidy(self) -> None:
        """Empty the real folder, wherever its name is now."""
        assert sys.platform != "win32"
        for folder in ("deep", "."):
            with contextlib.suppress(OSError):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._real)
                for name in os.listdir(fd):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=fd)
                os.close(fd)

    def close(self) -> None:
        os.close(self._real)
