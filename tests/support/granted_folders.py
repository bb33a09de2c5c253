"""Folders that a policy grants for saving and reading, system calls that can fail, and names that lead elsewhere."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import AccessRequest, FolderGrant, Source, authorize
from locara_sidecar.capability.files.confined import ConfinedFolder
from locara_sidecar.capability.files.system import System
from locara_sidecar.capability.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

RESOLUTIONS = ("openat2", "walk")
KINDS = ("anonymous", "named")

ESCAPES = [
    "",
    "/",
    "/etc/passwd",
    "//server/share",
    "..",
    "../a.png",
    "a/../b.png",
    "a/..",
    ".",
    "./a.png",
    "a/./b.png",
    "a//b.png",
    "a/",
    "a.png/",
    "link/../../a.png",
    "a\0.png",
    "\0",
    "a\\b.png",
    "..\\a.png",
    "C:\\a.png",
    "C:a.png",
    "a:b",
    "a\u2044b",
    "a\u2215b",
    "a\uff0fb",
    "..\uff0fa",
    "a\uff3cb",
    "\u200c..",
    "..\u200d",
    "a/\u200b./b",
]
ODD = [
    ".hidden",
    "a/.hidden/b.png",
    ".locara-1.part",
    "\u200d.hidden",
    "a.",
    "a ",
    "a\u00a0",
    "a /b.png",
    "...",
    "a/...",
    "CON",
    "con.png",
    "a/NUL.txt",
    "Lpt1",
    "COM\u00b9.png",
    "aux .png",
    "conin$",
    "a\nb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "gnp.\u202egnp",
    "a\u200fb",
    "a\u2066b",
    "\u200b",
    "a" * 256,
    "\u00e9" * 128,
    "e\u0301" * 128,
    "a/" * 40 + "b",
    "/".join(["a" * 200] * 22),
    "a\ud800b",
]


class NoSync(System):
    """The real calls, but without syncing to disk."""

    def sync(self, fd: int) -> None:
        pass


def manifest(**capabilities: Any) -> dict[str, Any]:
    return {
        "schema": "locara/v1",
        "name": "app",
        "publisher": "tests",
        "version": "1",
        "modalities": ["text-to-image"],
        "capabilities": {"models": ["pocket"], **capabilities},
    }


def grant_for(folder: Path) -> FolderGrant:
    """Return a grant to write, obtained in the only possible way."""
    manifest = {
        "schema": "locara/v1",
        "name": "campaign",
        "publisher": "locara",
        "version": "1",
        "modalities": ["text-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}},
    }
    policy = Policy.build(manifest, {"user-folder": str(folder)})
    grant = authorize(policy, METHODS["image.generate"], AccessRequest(models=("pocket",), root="user-folder"))
    assert grant.folder is not None
    return grant.folder


def open_folder(
    folder: Path, resolution: Any = "auto", kind: Any = "auto", system: System | None = None
) -> ConfinedFolder:
    return ConfinedFolder(grant_for(folder), resolution=resolution, temporary=kind, system=system or NoSync())


def read_grant_for(folder: Path) -> FolderGrant:
    """Return a grant to read, obtained in the only possible way."""
    manifest = {
        "schema": "locara/v1",
        "name": "campaign",
        "publisher": "locara",
        "version": "1",
        "modalities": ["image-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {"user-folder": "read"}},
    }
    policy = Policy.build(manifest, {"user-folder": str(folder)})
    wanted = AccessRequest(models=("pocket",), sources=(Source("user-folder", "$.image.root"),))
    return authorize(policy, METHODS["image.edit"], wanted).sources[0]


class Faulty:
    """Fail the call with the number ``fail_at``; ``calls`` are the names of the calls made so far."""

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
    """Return every name below ``folder``, including hidden ones, with its contents (None for a folder)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
