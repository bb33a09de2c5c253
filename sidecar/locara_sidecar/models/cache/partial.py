"""An unfinished file in ``<cache>/incoming``: whose it is, how far it is, what its bytes hash to.

What keeps published bytes whole, whatever ``flock`` says: a part has one writer for all its life. Its name holds the
writer's (``owner.py``), and nobody else opens it for writing. Another process goes on with it by giving it a name of
its own first, which only one can, and only once the writer is known to have ended; else with a copy. So no process
has a descriptor on a file that another one publishes. And a file that has got a second name is never written, nor cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from locara_sidecar.models.cache import disk, owner
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20
_TRIES = 16
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
SILENT_SECONDS = 15 * 60.0
"""A part of a living process that has not grown for so long is not waited for: longer than any download bears with a
server."""

_own = set[str]()
"""The paths of the parts that this process has open or is about to make: downloads of one process may be at the same
bytes, and a part that is there before its path is here would be taken for one that nobody writes."""


class _Note(msgspec.Struct):
    etag: str


class Partial:
    """A part that this process alone writes; made by :func:`claim`. Hashes from the first byte on.

    ``etag`` is the validator of the server that sent the first byte, for If-Range.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._note = path.with_suffix(".json")
        _own.add(str(path))
        self._reset_hashes()
        while chunk := os.read(fd, _CHUNK):
            self._hash(chunk)
        self.etag: str | None = None
        with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
            self.etag = msgspec.json.decode(text_files.read(self._note), type=_Note).etag

    def write(self, data: bytes) -> None:
        """Append.

        :raises OSError: as the call fails; the part then may hold more than it hashed and must be given up.
        """
        if os.fstat(self._fd).st_nlink > 1:
            self._replace(keep=True)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._hash(data)

    def reset(self) -> None:
        """Start from the first byte."""
        if os.fstat(self._fd).st_nlink > 1:
            self._replace(keep=False)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._reset_hashes()
        self.note(None)

    def _replace(self, *, keep: bool) -> None:
        """Go on with another file under the part's name: what the descriptor leads to belongs to somebody else too."""
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        fd = os.open(fresh, _FLAGS | os.O_CREAT | os.O_EXCL, disk.FILE_MODE)
        try:
            if keep:
                os.lseek(self._fd, 0, os.SEEK_SET)
                while chunk := os.read(self._fd, _CHUNK):
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(fd, rest) :]
            os.replace(fresh, self.path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        os.close(self._fd)
        self._fd = fd
        disk.lock_fd(fd)

    def note(self, etag: str | None) -> None:
        """Remember the validator for the next try."""
        self.etag = etag
        with contextlib.suppress(OSError):
            if etag is None:
                self._note.unlink(missing_ok=True)
            else:
                disk.write_new(self._note, msgspec.json.encode(_Note(etag)))

    @property
    def sha256(self) -> str:
        """Of all that is there, in hex."""
        return self._sha256.hexdigest()

    def git_id(self) -> str:
        """The id that git gives these bytes. Reads them again: only small files are checked by it."""
        digest = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        digest.update(self.path.read_bytes())
        return digest.hexdigest()

    def sync(self) -> None:
        """See to it that what is there is on the disk."""
        disk.sync_file(self._fd)

    def close(self, *, delete: bool = False) -> None:
        """Let go of it; what is there stays for the next try unless it is to be deleted: it is finished then, and so
        is everything that others who have ended left of it."""
        if self._fd < 0:
            return
        _own.discard(str(self.path))
        if delete:
            _delete(self.path)
            for path in _parts(self.path.parent, key_of(self.path)):
                if writer(path) == "none":
                    _delete(path)
        os.close(self._fd)
        self._fd = -1

    def _reset_hashes(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def _hash(self, data: bytes) -> None:
        self._sha256.update(data)
        self.size += len(data)


def claim(incoming: Path, key: str) -> Partial | None:
    """The part of what has that key, where it was left off; None while another process writes it.

    :raises OSError: when it cannot be opened.
    """
    for _ in range(_TRIES):
        # what grew furthest is gone on with
        found = sorted(_parts(incoming, key), key=_size, reverse=True)
        writers = {path: writer(path) for path in found}
        if any(who == "alive" and _age(path) < SILENT_SECONDS for path, who in writers.items()):
            return None
        path = _fresh(incoming, key)
        part: Partial | None = None
        _own.add(str(path))
        try:
            if not found:
                part = Partial(path, _create(path))
            elif writers[found[0]] == "none":
                part = _take(found[0], path)
            else:
                part = _copy(found[0], path)
        finally:
            if part is None or part.path != path:
                _own.discard(str(path))
        if part is None:
            continue
        # two may begin at the same moment: the one of the lesser name goes on
        if not found and any(_size(other) or other < path for other in _parts(incoming, key) if other != path):
            part.close(delete=True)
            return None
        return part
    return None


def started(incoming: Path, key: str) -> int:
    """How many bytes of what has that key are there for the next try."""
    return max((_size(path) for path in _parts(incoming, key)), default=0)


def key_of(path: Path) -> str:
    """What a part, or the note beside it, will be when it is whole: the SHA-256, or the git id, of all its bytes."""
    return path.name.partition(".")[0]


def writer(path: Path) -> Literal["alive", "none", "perhaps"]:
    """Whether somebody writes a part: ``perhaps`` where its process cannot be seen from here and locks tell nothing."""
    if str(path) in _own:
        return "alive"
    named = path.name.split(".")[1]
    if named == owner.name():
        return "none"  # closed by this very process
    state = owner.state(named)
    if state in ("alive", "ended"):
        return "alive" if state == "alive" else "none"
    lock = disk.probe(path)
    if lock == "held":
        return "alive"
    # a lock of another machine need not be heard here, one of this system is
    return "none" if lock == "free" and state == "neighbour" else "perhaps"


def _parts(incoming: Path, key: str) -> list[Path]:
    return [path for path in incoming.glob(f"{key}.*.part") if path.name.count(".") >= 2]


def _fresh(incoming: Path, key: str) -> Path:
    return incoming / f"{key}.{owner.name()}.{secrets.token_hex(6)}.part"


def _create(path: Path) -> int:
    fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, disk.FILE_MODE)
    disk.lock_fd(fd)
    return fd


def _take(path: Path, own: Path) -> Partial | None:
    """Go on with a part whose writer has ended; None when another process was faster."""
    try:
        os.rename(path, own)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        os.rename(path.with_suffix(".json"), own.with_suffix(".json"))
    try:
        fd = os.open(own, _FLAGS)
    except PermissionError:
        fd = -1  # finished and made read-only by somebody who was killed before he could delete this name
    if fd < 0 or os.fstat(fd).st_nlink > 1:
        if fd >= 0:
            os.close(fd)
        other = _fresh(own.parent, key_of(own))
        part: Partial | None = None
        _own.add(str(other))
        try:
            part = _copy(own, other)
        finally:
            if part is None:
                _own.discard(str(other))
        _delete(own)
        return part
    disk.lock_fd(fd)
    os.utime(own)  # it is in good hands from now on
    return Partial(own, fd)


def _copy(path: Path, own: Path) -> Partial | None:
    """Go on with a copy, and leave the part to whom it may belong; None when it is gone."""
    try:
        disk.copy(path, own)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        disk.copy(path.with_suffix(".json"), own.with_suffix(".json"))
    os.chmod(own, 0o644)  # a clone is as read-only as what it is of
    fd = os.open(own, _FLAGS)
    disk.lock_fd(fd)
    return Partial(own, fd)


def _delete(path: Path) -> None:
    for name in (path, path.with_suffix(".json")):
        with contextlib.suppress(OSError):
            name.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
