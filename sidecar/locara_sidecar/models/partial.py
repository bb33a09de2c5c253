"""An unfinished file in ``<cache>/incoming``: whose it is, how far it is, what its bytes hash to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.models import disk

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20


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
        self._reset_hashes()
        while chunk := os.read(fd, _CHUNK):
            self._hash(chunk)
        self.etag: str | None = None
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            self.etag = msgspec.json.decode(self._note.read_bytes(), type=_Note).etag

    def write(self, data: bytes) -> None:
        """Append.

        :raises OSError: as the call fails; the part then may hold more than it hashed and must be given up.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._hash(data)

    def reset(self) -> None:
        """Start from the first byte."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._reset_hashes()
        self.note(None)

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
        return self._sha256.hexdigest()

    def git_id(self) -> str:
        """The id that git gives these bytes. Reads them again: only small files are checked by it."""
        digest = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        digest.update(self.path.read_bytes())
        return digest.hexdigest()

    def sync(self) -> None:
        disk.sync_file(self._fd)

    def close(self, *, delete: bool = False) -> None:
        """Let go of it; what is there stays for the next try unless it is to be deleted."""
        if self._fd < 0:
            return
        if delete:
            for path in (self.path, self._note):
                with contextlib.suppress(OSError):
                    path.unlink()
        os.close(self._fd)
        self._fd = -1

    def _reset_hashes(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def _hash(self, data: bytes) -> None:
        self._sha256.update(data)
        self.size += len(data)


def claim(incoming: Path, key: str) -> Partial | None:
    """The part of that name, where it was left off; None while another process writes it.

    Where there are no locks a part of our own is made, which only this process will ever use.

    :raises OSError: when it cannot be opened.
    """
    path = incoming / f"{key}.part"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_BINARY", 0)
    for _ in range(16):
        try:
            fd = os.open(path, flags, 0o666)
        except PermissionError:
            path.unlink()  # finished and made read-only by somebody who was killed before the blob had its name
            continue
        locked = disk.lock_fd(fd)
        if locked is False:
            os.close(fd)
            return None
        if locked is None:
            os.close(fd)
            path = incoming / f"{key}-{secrets.token_hex(6)}.part"
            fd = os.open(path, flags | os.O_EXCL, 0o666)
            return Partial(path, fd)
        with contextlib.suppress(FileNotFoundError):
            # the last holder may have finished and deleted what we have just locked
            if os.path.samestat(os.fstat(fd), path.stat()):
                return Partial(path, fd)
        os.close(fd)
    return None
