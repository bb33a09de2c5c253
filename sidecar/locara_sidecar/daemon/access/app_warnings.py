"""The warnings in ``initialize``'s result, for the app's developer: unknown members, folders of no use."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Literal

from locara_protocol.manifest import Manifest
from locara_protocol.messages import AppWarning
from locara_protocol.wording import join

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.capability.policy import Policy

_SECONDS = 0.25
_MOST = 64
_ACCESS: tuple[tuple[Literal["read", "write"], int, str], ...] = (
    ("write", os.W_OK, "saved"),
    ("read", os.R_OK, "read"),
)


def unknown_members(policy: Policy) -> list[AppWarning]:
    """Return the warnings about a policy's manifest."""
    notices = () if policy.manifest is None else policy.manifest.notices
    return [AppWarning(kind=notice.kind, message=notice.message, path=notice.path) for notice in notices]


def useless_folders(policy: Policy) -> list[AppWarning]:
    """Return the warnings about granted folders. Waits at most a quarter of a second for file systems that do not
    respond, so keep it off the event loop.
    """
    grants, manifest = policy.grants, policy.manifest or Manifest(name="", publisher="", version="")
    found: list[AppWarning] = []

    def look() -> None:
        for root, folder in list(grants.items())[:_MOST]:
            why = _state(folder)
            kind, lost = "FolderMissing", "saved or read"
            if why is None and (lost := " or ".join(_lost(folder, root, manifest))):
                kind, why = "FolderDenied", "does not allow what the manifest declares"
            if why is not None:
                message = f"The folder that was granted as {root} {why}; nothing can be {lost} there."
                found.append(AppWarning(kind=kind, message=message, path=join("$.grants", root)))

    if grants:
        # in a further thread: a network file system may take minutes to respond, and nothing should wait for that
        thread = threading.Thread(target=look, name="grants", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system refuses a thread: the session opens without the warning
            thread.start()
            thread.join(_SECONDS)
    return list(found)


def _state(folder: Path) -> str | None:
    """Describe what is wrong with a granted folder; None if nothing is."""
    if folder.is_dir():
        return None
    return "is not a folder" if os.path.lexists(folder) else "does not exist"


def _lost(folder: Path, root: str, manifest: Manifest) -> list[str]:
    """Return what the manifest declares and the system does not let us do there: as far as it says so in advance."""
    lost: list[str] = []
    for access, mode, done in _ACCESS:
        if manifest.allows(root, access) and not os.access(folder, mode | os.X_OK):
            lost.append(done)
    return lost
