"""The engine's confinement on macOS: our own Seatbelt profile, or the sandbox of the app that embeds us.

In addition to :mod:`~locara_sidecar.engine.sandbox.attempts`, this tries what only macOS offers. None of the attempts
sends anything: they ask the kernel, or ask launchd for a port to which nothing is then sent; files are linked and
cloned within scratch only. NOT RUN by us so far; the tests simulate the calls
(:class:`~locara_sidecar.machine.macos.darwin.Darwin`) and evaluate the profile as the kernel would.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox import attempts, seatbelt
from locara_sidecar.ipc.frames import SandboxReport
from locara_sidecar.machine.macos import app_sandbox
from locara_sidecar.machine.macos.darwin import NOT_PRIVILEGED, Darwin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.engine.sandbox.forbidden import Outcome
    from locara_sidecar.engine.sandbox.linux.landlock import Right

CACHE_SUFFIX = "locara-engine"
"""The name of the engine's own folder in the user's cache folder (``getconf DARWIN_USER_CACHE_DIR``)."""

_LOOKED_UP = (
    *("com.apple.coreservices.launchservicesd", "com.apple.pasteboard.1", "com.apple.nsurlsessiond"),
    *("com.apple.dnssd.service", "com.apple.metadata.mds", "com.apple.coreservices.appleevents"),
    *("com.apple.lsd.open", "com.apple.trustd.agent", "com.apple.SecurityServer"),
)
_NETWORKING = "com.apple.WebKit.Networking"
"""A service in a framework's bundle, which reaches the network for whoever loads the framework."""
_LOCAL = (("/private/var/run/mDNSResponder", socket.SOCK_STREAM), ("/private/var/run/syslog", socket.SOCK_DGRAM))
"""Sockets that exist on every Mac. For a missing path, the file system's error would precede Seatbelt's."""
_REFUSED = frozenset({errno.EPERM, errno.EACCES})


def confine(
    rules: Iterable[tuple[str, Right]], means: list[str], told: dict[str, str], mac: Darwin | None = None
) -> None:
    """Load the profile. Records failures in ``told`` and never raises."""
    rules = list(rules)
    write = [path for path, right in rules if right == "write"]
    run = [path for path, right in rules if right == "run" and os.path.exists(path)]
    read = [path for path, right in rules if right == "read" and os.path.exists(path)]
    with attempts.telling(told, "compilerCache"):
        write.append(own_cache(mac or Darwin()))
        told["compilerCache"] = "in use"
    with attempts.telling(told, "seatbelt"):
        unknown = seatbelt.confine(write, run, read)
        told["seatbelt"] = "in use"
        if unknown:
            told["unknownRules"] = ", ".join(unknown)
        means.append("seatbelt")


def own_cache(mac: Darwin) -> str:
    """Return a cache folder for this program alone, inside the user's; Metal stores compiled kernels there.

    If Metal may not write its caches, it compiles kernels again at each start, or not at all; therefore Chromium's
    profile for its GPU process makes the whole cache folder writable. Ours is shared only by engines and kept between
    starts. A compromised engine could leave a compiled kernel there for the next one.

    :raises OSError: if the system has no such folder.
    """
    mac.set_user_dir_suffix(CACHE_SUFFIX)
    folder = mac.user_cache_dir()
    if CACHE_SUFFIX not in folder:  # never the folder of all programs
        raise OSError(errno.ENOENT, "no cache folder of its own")
    os.makedirs(folder, 0o700, exist_ok=True)
    return folder


def further_attempts(mac: Darwin | None = None) -> dict[str, Outcome]:
    """Try what only macOS offers: other programs that would act for the engine, and its own local sockets."""
    mac = mac or Darwin()
    ways: list[Outcome] = [
        _asked(mac, "lsopen"),
        _asked(mac, "job-creation"),
        _asked(mac, "mach-lookup", _NETWORKING),
        *(_look_up(mac, name) for name in _LOOKED_UP),
    ]
    return {"otherPrograms": attempts.worst(ways), "localSockets": attempts.worst(_connect(*one) for one in _LOCAL)}


def links(scratch: str, mac: Darwin | None = None) -> dict[str, Outcome]:
    """Try to give a file of our own a second name, and to clone it: if that is blocked, it is blocked for all files."""
    mac = mac or Darwin()
    path = os.path.join(scratch, ".locara-attempt")
    found: list[Outcome] = []
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    except OSError:
        return {"linkedFiles": "unknown"}
    for name, attempt in (("link", mac.link), ("clone", mac.clone)):
        try:
            attempt(path, f"{path}-{name}")
        except OSError as error:
            found.append("blocked" if error.errno in _REFUSED else "unknown")
        else:
            found.append("open")
            with contextlib.suppress(OSError):
                os.unlink(f"{path}-{name}")
    with contextlib.suppress(OSError):
        os.unlink(path)
    return {"linkedFiles": attempts.worst(found)}


def user_folders() -> list[str]:
    """Return what the app's sandbox denies to everything in it: the user's real home folder, which is not HOME."""
    return [path for path in (app_sandbox.user_home(), "/Users") if path]


def report_of_app(given: app_sandbox.Given, found: dict[str, Outcome]) -> SandboxReport:
    """Report on an engine that started in an app's sandbox. Never ``enforced``: it can reach everything that its app
    can.
    """
    home = app_sandbox.user_home()
    found = {**found, "writeUserFiles": attempts.write(home) if home else "unknown"}
    whose = (
        "the App Sandbox of the app that embeds it" if given == "app-sandbox" else "a sandbox that it was started in"
    )
    network = attempts.worst(found[name] for name in ("tcp", "udp"))
    reason = (
        f"The engine runs inside {whose} and has no narrower one of its own, since a process can be confined only once:"
        " it can read and write whatever the app can, its container included. It tried the rest:"
        f" reading the user's other files: {found['readOutside']}, writing there: {found['writeUserFiles']},"
        f" the network: {network}."
    )
    return SandboxReport(kind=given, enforced=False, reason=reason, details={**found})


def _asked(mac: Darwin, operation: str, xpc: str | None = None) -> Outcome:
    """Ask whether an operation is denied. Trying it would open a browser or start a program."""
    try:
        return "blocked" if mac.denies(operation, xpc) else "open"
    except OSError:
        return "unknown"


def _look_up(mac: Darwin, service: str) -> Outcome:
    try:
        answer = mac.look_up(service)
    except (OSError, ValueError):
        return "unknown"
    return "open" if answer == 0 else "blocked" if answer == NOT_PRIVILEGED else "unknown"


def _connect(path: str, kind: int) -> Outcome:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        return "unknown"
    try:
        with socket.socket(family, kind) as one:
            one.setblocking(False)
            one.connect(path)
    except BlockingIOError:
        return "open"
    except OSError as error:
        return "blocked" if error.errno in _REFUSED else "unknown"
    return "open"
