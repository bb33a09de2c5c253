"""The warnings in ``initialize``'s result, for the app's developer: unknown members, missing folders."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from locara_protocol.messages import AppWarning
from locara_protocol.wording import join

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from locara_sidecar.capability.policy import Policy

_SECONDS = 0.25
_MOST = 64


def unknown_members(policy: Policy) -> list[AppWarning]:
    """Return the warnings about a policy's manifest."""
    notices = () if policy.manifest is None else policy.manifest.notices
    return [AppWarning(kind=notice.kind, message=notice.message, path=notice.path) for notice in notices]


def missing_folders(grants: Mapping[str, Path]) -> list[AppWarning]:
    """Return the warnings about granted folders. Waits at most a quarter of a second for file systems that do not
    respond, so keep it off the event loop.
    """
    found: list[AppWarning] = []

    def look() -> None:
        for root, folder in list(grants.items())[:_MOST]:
            why = _state(folder)
            if why is not None:
                message = f"The folder that was granted as {root} {why}; nothing can be saved or read there."
                found.append(AppWarning(kind="FolderMissing", message=message, path=join("$.grants", root)))

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
