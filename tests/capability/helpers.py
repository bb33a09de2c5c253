"""What the capability tests share, much of it with the campaign; and system calls that can fail."""

import errno
import os
from pathlib import Path
from typing import Any

from campaigns.reading import read_grant_for
from campaigns.saving import NoSync, grant_for, open_folder

__all__ = ["KINDS", "RESOLUTIONS", "Faulty", "NoSync", "grant_for", "manifest", "open_folder", "read_grant_for", "tree"]

RESOLUTIONS = ("openat2", "walk")
KINDS = ("anonymous", "named")


def manifest(**capabilities: Any) -> dict[str, Any]:
    return {
        "schema": "locara/v1",
        "name": "app",
        "publisher": "tests",
        "version": "1",
        "modalities": ["text-to-image"],
        "capabilities": {"models": [{"id": "pocket"}], **capabilities},
    }


class Faulty:
    """Fails call number ``fail_at`` of all; ``calls`` are the names of those that were made."""

    def __init__(self, fail_at: int | None = None, number: int = errno.EIO) -> None:
        self.calls: list[str] = []
        self._real = NoSync()
        self._fail_at = fail_at
        self._number = number

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 != self._fail_at:
                return getattr(self._real, name)(*arguments)
            if name == "close":
                self._real.close(*arguments)
            raise OSError(self._number, os.strerror(self._number))

        return call


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every name below, hidden ones too, with contents (None for a folder)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
