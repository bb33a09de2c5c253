"""What the capability tests share: grants made the only way there is, and system calls that can fail."""

import errno
import os
from pathlib import Path
from typing import Any

from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import FolderGrant, Wanted, authorize
from locara_sidecar.capability.confined import ConfinedFolder
from locara_sidecar.capability.policy import Policy
from locara_sidecar.capability.system import System

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


def grant_for(folder: Path) -> FolderGrant:
    policy = Policy.build(manifest(fs={"user-folder": "write"}), {"user-folder": str(folder)})
    grant = authorize(policy, METHODS["image.generate"], Wanted(models=("pocket",), root="user-folder"))
    assert grant.folder is not None
    return grant.folder


class NoSync(System):
    """Fast: what these tests show does not depend on the disk."""

    def sync(self, fd: int) -> None:
        pass


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


def open_folder(folder: Path, resolution: Any = "auto", kind: Any = "auto", system: Any = None) -> ConfinedFolder:
    return ConfinedFolder(grant_for(folder), resolution=resolution, temporary=kind, system=system or NoSync())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every name below, hidden ones too, with contents (None for a folder)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
