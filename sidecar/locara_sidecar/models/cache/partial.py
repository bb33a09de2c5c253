"""An unfinished file in ``<cache>/incoming``: its owner, its progress, and the hash of its bytes.

One rule keeps published bytes intact, whether or not ``flock`` works: a part has a single writer for all its life. Its
name contains the writer's (``owner.py``), and nobody else opens it for writing. Another process resumes it by first
renaming it to a name of its own, which only one process can do, and only once the writer is known to have ended;
otherwise it resumes a copy. So no process has a descriptor on a file that another one publishes. And a file with a
second name is never written or truncated.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from locara_sidecar.models.cache import disk, owner
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from pathlib import Path

_KEY = re.compile(r"[0-9a-z-]+")
_CHUNK = 1 << 20
_TRIES = 16
_STRONG = re.compile(r'"[\x21\x23-\x7e]{0,254}"')
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
SILENT_SECONDS = 15 * 60.0
"""A live process's part that has not grown for this long is not waited for: longer than any download tolerates from a
server.
"""

_own = set[str]()
"""The paths of the parts that this process has open or is about to create: several downloads of one process may want
the same bytes, and a part that exists before its path is listed here would seem to have no writer.
"""


class _Note(msgspec.Struct):
    etag: str


class Partial:
    """A part that only this process writes; created by :func:`claim`. Hashes from the first byte on.

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
            self.etag = _strong(msgspec.json.decode(text_files.read(self._note), type=_Note).etag)

    def write(self, data: bytes) -> None:
        """Append data.

        :raises OSError: as the call fails; the part may then contain more than was hashed and must be discarded.
        """
        if os.fstat(self._fd).st_nlink > 1:
            self._replace(keep=True)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._hash(data)

    def reset(self) -> None:
        """Start over from the first byte."""
        if os.fstat(self._fd).st_nlink > 1:
            self._replace(keep=False)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._reset_hashes()
        self.note(None)

    def _replace(self, *, keep: bool) -> None:
        """Continue with a new file under the part's name: the open one also belongs to somebody else."""
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
        """Record the validator for the next attempt, if it can be sent back and guarantees the same bytes."""
        self.etag = _strong(etag or "")
        with contextlib.suppress(OSError):
            if self.etag is None:
                self._note.unlink(missing_ok=True)
            else:
                disk.write_new(self._note, msgspec.json.encode(_Note(self.etag)))

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of everything written, in hex."""
        return self._sha256.hexdigest()

    def git_id(self) -> str:
        """Return the git id of the contents. Reads them again: only small files are checked by it."""
        digest = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        digest.update(self.path.read_bytes())
        return digest.hexdigest()

    def sync(self) -> None:
        """Flush everything written to disk."""
        disk.sync_file(self._fd)

    def close(self, *, delete: bool = False) -> None:
        """Close the part. The file is kept for the next attempt, unless ``delete`` is set because it is finished: then
        the parts that ended processes left of it are deleted, too.
        """
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
    """Return the part with that key, resuming where it was left; None while another process writes it.

    :raises OSError: if it cannot be opened.
    :raises ValueError: if the key is not a hash: as a path it could lead out of the folder.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError("no hash")
    for _ in range(_TRIES):
        # resume the longest
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
        # two processes may begin at the same moment: the one with the lesser name continues
        if not found and any(_size(other) or other < path for other in _parts(incoming, key) if other != path):
            part.close(delete=True)
            return None
        return part
    return None


def _strong(etag: str) -> str | None:
    """Return a validator that guarantees the same bytes (a weak one does not), and that a header can hold."""
    return etag if _STRONG.fullmatch(etag) else None


def started(incoming: Path, key: str) -> int:
    """Return how many bytes with that key exist for the next attempt."""
    return max((_size(path) for path in _parts(incoming, key)), default=0)


def key_of(path: Path) -> str:
    """Return what a part, or the note next to it, will be when complete: the SHA-256, or the git id, of all its
    bytes.
    """
    return path.name.partition(".")[0]


def writer(path: Path) -> Literal["alive", "none", "perhaps"]:
    """Whether a process is writing a part: ``perhaps`` if that process is not visible from here and locks prove
    nothing.
    """
    if str(path) in _own:
        return "alive"
    named = path.name.split(".")[1]
    if named == owner.name():
        return "none"  # closed by this process
    state = owner.state(named)
    if state in ("alive", "ended"):
        return "alive" if state == "alive" else "none"
    lock = disk.probe(path)
    if lock == "held":
        return "alive"
    # a lock held on another machine may not be seen here, one on this system is
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
    """Resume a part whose writer has ended; None if another process was faster."""
    try:
        os.rename(path, own)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        os.rename(path.with_suffix(".json"), own.with_suffix(".json"))
    try:
        fd = os.open(own, _FLAGS)
    except PermissionError:
        fd = -1  # finished and made read-only by a process that was killed before it could delete this name
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
    with contextlib.suppress(OSError):
        os.utime(own)  # its new owner is active
    return Partial(own, fd)


def _copy(path: Path, own: Path) -> Partial | None:
    """Resume a copy, and leave the part to its possible owner; None if it is gone."""
    try:
        disk.copy(path, own)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        disk.copy(path.with_suffix(".json"), own.with_suffix(".json"))
    disk.set_mode(own, disk.FILE_MODE)  # a clone of a read-only file is read-only
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
