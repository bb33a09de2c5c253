"""How much memory this machine's engines hold, shared between daemons: one small file each in ``<cache>/leases``.

A lease is alive while its writer is: its name identifies the process (``owner.py``), and if that is inconclusive, a
flock on the file does. So a killed daemon's reservation ends with it. Files of ended writers are deleted by whoever
reads them; a lease from another machine says nothing about this one's memory. Leases only advise the memory plan.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Annotated

import msgspec

from locara_sidecar.models.cache import disk, owner
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from pathlib import Path


class Lease(msgspec.Struct, frozen=True):
    """What one engine may take: ``bytes`` is the plan's peak, not a measurement."""

    pid: int
    model: str
    bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]


class Leases:
    """The leases below a cache's root; at most one of them is this object's."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "leases"
        self._own: Path | None = None
        self._fd = -1

    def hold(self, model: str, size: int) -> None:
        """Reserve memory for this process's engine, replacing an earlier reservation. Failing is no error."""
        with contextlib.suppress(OSError):
            if self._own is None:
                disk.make_folder(self._folder)
                path = self._folder / f"{owner.name()}.{secrets.token_hex(6)}.json"
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | disk.CLOEXEC, disk.FILE_MODE)
                disk.lock_fd(self._fd)
                self._own = path
            data = msgspec.json.encode(Lease(os.getpid(), model, size))
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, data)
            os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        """Release the reservation: the engine has ended."""
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink()
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._own, self._fd = None, -1

    def others(self) -> list[Lease]:
        """Return the live leases of other daemons."""
        found: list[Lease] = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                if path != self._own:
                    found += _read(path)
        return found

    def reserved(self) -> int:
        """Return the bytes that the engines of other daemons hold or have reserved."""
        return sum(promise.bytes for promise in self.others() if promise.pid != os.getpid())


def _read(path: Path) -> list[Lease]:
    state, lock = owner.state(path.name.partition(".")[0]), disk.probe(path)
    if state == "ended" or (state != "alive" and lock == "free"):  # its writer has ended
        with contextlib.suppress(OSError):
            path.unlink()
        return []
    if state == "stranger" and lock != "held":
        return []
    try:
        return [msgspec.json.decode(text_files.read(path), type=Lease)]
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return []  # it is being written right now
