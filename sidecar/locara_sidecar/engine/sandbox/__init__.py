"""The engine confines itself, once, before it loads anything heavy and while it has one thread; then it tries the bars.

Linux: Landlock for files, TCP, signals and devices, and an empty network namespace and a system call filter for
the rest of the network. macOS: a Seatbelt profile, unless the app that embeds us is in a sandbox of its own, which
then is all there is (:mod:`~locara_sidecar.engine.sandbox.macos`). Elsewhere nothing, and it says so. What is reported
is what the attempts found, not what was asked for. A confinement cannot be widened: an engine that needs another
model's folder is started anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox import attempts, landlock, macos, network, places
from locara_sidecar.ipc.frames import SandboxReport
from locara_sidecar.machine import app_sandbox
from locara_sidecar.machine.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from locara_sidecar.engine.sandbox.kernel import Kernel
    from locara_sidecar.machine.darwin import Darwin

__all__ = ["confine"]

_ESSENTIAL = {
    "readOutside": "reading the user's other files",
    "writeOutside": "writing outside the scratch folder",
    "tcp": "connecting over TCP",
    "udp": "datagrams, and with them names",
}
"""Attempts that must be blocked for a confinement to count as enforced, and how each is told."""

_ESSENTIAL_HERE = {"darwin": {"otherPrograms": "having other programs open addresses, fetch them or look for files"}}
"""Further ones, by platform."""

_LISTED = {"linux": ("/",), "darwin": ("/Users",)}
"""Folders that every user can list and the engine must not, by platform. Not the root on macOS: its loader reads it."""

_FURTHER = {
    "localSockets": "talking to local services over sockets with a path",
    "signals": "signalling the user's other processes",
}


def confine(
    scratch: str,
    readable: Iterable[str],
    kernel: Kernel | None = None,
    *,
    writable: Iterable[str] = (),
    mac: Darwin | None = None,
) -> SandboxReport:
    """Give up everything that the engine does not need, for good, and report what really holds.

    Never raises: what cannot be enforced is told.

    :param scratch: the folder that stays writable; ``writable``: further ones, that a model is to be prepared into.
    :param readable: folders and files of the granted models.
    :param mac: macOS's own calls, which a test plays, as it does ``kernel``.
    """
    home = os.path.expanduser("~")
    given = app_sandbox.given(mac)
    rules = places.rules(scratch, readable, home, writable)
    outside = macos.user_folders() if given else _outside(home, scratch, rules)
    places.redirect_caches(scratch)
    details: dict[str, str] = {}
    means: list[str] = []
    if sys.platform == "linux":
        from locara_sidecar.engine.sandbox.kernel import Kernel as RealKernel

        _confine_linux(kernel or RealKernel(), rules, means, details)
    elif sys.platform == "darwin" and not given:
        macos.confine(rules, means, details, mac)
    found = attempts.all_attempts(outside, os.path.dirname(scratch) or "/")
    if sys.platform == "darwin":
        found.update(macos.further_attempts(mac))
    return macos.report_of_app(given, found) if given else report("+".join(means) or "none", found, details)


def report(kind: str, found: dict[str, attempts.Outcome], details: dict[str, str]) -> SandboxReport:
    """What the attempts found, in words and in one flag."""
    essential = _ESSENTIAL | _ESSENTIAL_HERE.get(sys.platform, {})
    failed = [words for name, words in essential.items() if found.get(name) != "blocked"]
    if "threads" in details:
        failed.append("what threads do that were running already")
    enforced = not failed
    if enforced:
        reason = "The engine tried to read and write the user's files and to reach the network; all of it was blocked."
        left = [words for name, words in _FURTHER.items() if found.get(name) == "open"]
        if left:
            reason += f" What this system cannot prevent: {', '.join(left)}."
    elif kind == "none":
        reason = "The engine is not confined on this system; it is told only the folders of granted models."
    else:
        reason = f"The engine tried what is forbidden, and this was not blocked: {', '.join(failed)}."
    lacking = [f"{name}: {words}" for name, words in details.items() if not words.startswith(("in use", "version"))]
    if lacking and not enforced:
        reason += f" ({'; '.join(lacking)})"
    return SandboxReport(kind=kind, enforced=enforced, reason=reason, details={**found, **details})


def _confine_linux(
    kernel: Kernel, rules: list[tuple[str, landlock.Right]], means: list[str], told: dict[str, str]
) -> None:
    if (threads := _threads()) > 1:
        told["threads"] = f"{threads} were running, and a confinement covers only the one that asks for it"
    # the namespace first: it needs /proc/self writable; Landlock last: it closes the rest
    with _telling(told, "networkNamespace"):
        told["networkNamespace"] = network.leave(kernel)
        means.append("namespace")
    with _telling(told, "callFilter"):
        told["callFilter"] = network.filter_calls(kernel)
        means.append("seccomp")
    with _telling(told, "landlock"):
        abi = kernel.landlock_abi()
        landlock.restrict(kernel, abi, rules)
        told["landlock"] = f"version {abi}"
        means.insert(0, "landlock")


@contextlib.contextmanager
def _telling(told: dict[str, str], name: str) -> Generator[None]:
    """Tell in words why a means is not there, and go on with the others."""
    try:
        yield
    except OSError as error:
        told[name] = f"not available ({errno.errorcode.get(error.errno or 0, str(error))})"


def _outside(home: str, scratch: str, rules: list[tuple[str, landlock.Right]]) -> list[str]:
    """Folders that the user can list and the engine must not: looked at before anything is confined."""
    given = [spelt(path) + os.sep for path, _ in rules]
    listed = _LISTED.get(sys.platform, ())
    candidates = {spelt(path) for path in (*listed, home, os.path.dirname(scratch)) if os.path.isabs(path)}
    outside = [path for path in candidates if not any(f"{path}{os.sep}".startswith(folder) for folder in given)]
    return [path for path in outside if attempts.read(path) == "open"]


def _threads() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return 1
