"""Detects whether this process was started confined: inside the App Sandbox of the app that embeds it, on macOS.

An app from the App Store, or any other with the entitlement ``com.apple.security.app-sandbox``, passes its confinement
on to its child processes. A process inside cannot confine itself any further (``sandbox_init`` fails), HOME is the
app's container, and without ``com.apple.security.network.client`` nothing can connect. Written from Apple's
documentation of entitlements and WebKit's declarations of the calls; NOT RUN by us so far.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.machine.macos.darwin import Darwin

Given = Literal["app-sandbox", "inherited"]
"""What confines us from outside: the App Sandbox, or another sandbox that our parent was in."""

NETWORK = "com.apple.security.network.client"
"""The entitlement without which nothing in the App Sandbox can connect."""

_CONTAINER = "APP_SANDBOX_CONTAINER_ID"
"""The system sets it for every process of a sandboxed app; it proves nothing by itself, since anybody can set it."""
_CLOSED_PORT = 1
_REFUSED = frozenset({errno.EPERM, errno.EACCES})


def given(mac: Darwin | None = None, environ: Mapping[str, str] = os.environ) -> Given | None:
    """Return what already confines this process; None if nothing does, if it cannot be determined, and on other
    systems.

    Call it before the process confines itself: afterwards it would report that confinement.
    """
    if sys.platform != "darwin":
        return None
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    with contextlib.suppress(OSError):
        if (mac or darwin.Darwin()).denies(None):
            return "app-sandbox" if environ.get(_CONTAINER) else "inherited"
    return None


def has_network() -> bool:
    """Whether this process can connect at all, tested with a local port that nobody serves."""
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            stream.setblocking(False)
            stream.connect(("127.0.0.1", _CLOSED_PORT))
    except OSError as error:
        return error.errno not in _REFUSED
    return True


def user_home() -> str | None:
    """Return the user's own home folder, which is not HOME inside a container."""
    if sys.platform == "win32":
        return None
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError, OSError):
        return None
