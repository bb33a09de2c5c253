"""What the engines of this machine hold, told between daemons: one small file each in ``<cache>/leases``.

A lease is alive while its writer holds a flock on it, so that a killed daemon's promise ends with it. Files of
the dead are deleted by whoever reads them. It is advice for the memory plan; nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.models import disk

if TYPE_CHECKING:
    from pathlib import Path


class Promise(msgspec.Struct, frozen=True):
    """What one engine may take: ``bytes`` is the plan's peak, not a measurement."""

    pid: int
    model: str
    bytes: int


class Leases:
    """The leases below a cache's root; at most one of them is this object's."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "leases"
        self._own: Path | None = None
        self._fd = -1

    def hold(self, model: str, size: int) -> None:
        """Promise memory to this process's engine, in place of an earlier promise. Failing is no error."""
        with contextlib.suppress(OSError):
            if self._own is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"{os.getpid()}-{secrets.token_hex(6)}.json"
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                disk.lock_fd(self._fd)
                self._own = path
            data = msgspec.json.encode(Promise(os.getpid(), model, size))
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, data)
            os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        """The engine has ended."""
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink()
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._own, self._fd = None, -1

    def others(self) -> list[Promise]:
        """The living leases of other daemons."""
        found: list[Promise] = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                if path != self._own:
                    found += _read(path)
        return found

    def reserved(self) -> int:
        """Bytes that the engines of other daemons hold or were promised."""
        return sum(promise.bytes for promise in self.others() if promise.pid != os.getpid())


def _read(path: Path) -> list[Promise]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if disk.lock_fd(fd) is True:  # nobody holds it: its writer has ended
            path.unlink(missing_ok=True)
            return []
        return [msgspec.json.decode(os.read(fd, 4096), type=Promise)]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []  # it is being written just now
    finally:
        os.close(fd)
