"""A disk whose power can be cut: an ext4 in a loop device, which its own ioctl shuts down. Needs Linux and root."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODES = {"log flushed": 1, "log dropped": 2}
"""Whether the file system's log is flushed before the cut."""

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_BYTES = 128 << 20


class Disk:
    """An ext4 in a file, mounted for the duration of the block.

    :raises OSError: if it cannot be mounted.
    """

    def __init__(self, where: Path) -> None:
        self._image = where / "disk.img"
        self.folder = where / "mounted"

    def __enter__(self) -> Disk:
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def cut(self, mode: int) -> None:
        """Cut the power now."""
        assert sys.platform != "win32"
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", mode))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Restore the power: the log is replayed."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-t", "ext4", "-o", "loop", str(self._image), str(self.folder))

    def _unmount(self) -> None:
        for attempt in range(100):
            try:
                _run("umount", str(self.folder))
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.02)  # a killed process is still exiting
            else:
                return


def _run(*argv: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise FileNotFoundError(f"there is no {argv[0]}")
    done = subprocess.run([found, *argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError((done.stderr.strip() or f"{argv[0]} ended with {done.returncode}").splitlines()[-1])


def why_not(where: Path) -> str | None:
    """Return why power cannot be cut here, or None, by trying it."""
    if sys.platform != "linux":
        return "only Linux has ext4"
    if os.geteuid() != 0:
        return "mounting needs root"
    try:
        with tempfile.TemporaryDirectory(dir=where) as name, Disk(Path(name)) as disk_:
            disk_.cut(MODES["log dropped"])
            disk_.restart()
    except OSError as error:
        return str(error)
    return None
