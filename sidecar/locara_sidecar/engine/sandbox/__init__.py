"""The engine confines itself once, with one thread and before it loads anything heavy; then it tests the result.

Linux: Landlock for files, TCP, signals and devices; an empty network namespace; no capabilities; and a system call
filter for the rest of the network, for other processes, for what Landlock does not cover, and against child processes,
so that nothing outlives the engine. macOS: a Seatbelt profile, unless the app that embeds us is sandboxed itself; then
that is the only sandbox (:mod:`~locara_sidecar.engine.sandbox.macos`). Other systems: none, and the report says so. The
report contains what the attempts found, not what was requested. A sandbox cannot be widened: an engine that needs
another model's folder is restarted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox import attempts, macos, places
from locara_sidecar.engine.sandbox.linux import calls, landlock, network, privileges
from locara_sidecar.ipc.frames import SandboxReport
from locara_sidecar.machine.macos import app_sandbox
from locara_sidecar.machine.macos.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.engine.sandbox.forbidden import Outcome
    from locara_sidecar.engine.sandbox.linux.kernel import Kernel
    from locara_sidecar.machine.macos.darwin import Darwin

__all__ = ["confine"]

_ESSENTIAL = {
    "readOutside": "reading the user's other files",
    "writeOutside": "writing outside the scratch folder",
    "tcp": "connecting over TCP",
    "udp": "datagrams, and with them DNS lookups",
}
"""Attempts that must be blocked for the sandbox to count as enforced, and their descriptions."""

_ESSENTIAL_HERE = {"darwin": {"otherPrograms": "having other programs open addresses, fetch them or look for files"}}
"""Further ones, by platform."""

_LISTED = {"linux": ("/",), "darwin": ("/Users",)}
"""Folders that every user can list and the engine must not, by platform. Not the root on macOS: its loader reads it."""

_FURTHER = {
    "localSockets": "talking to local services over sockets with a path",
    "signals": "signalling the user's other processes",
    "linkedFiles": "giving files a second name or a clone, where other rules hold for them",
    "fileAttributes": "changing the mode, owner, times or attributes of files",
    "attributesRead": "reading the attributes of any file",
    "fileWatches": "watching the user's files",
    "otherProcesses": "reading, tracing and limiting the user's other processes",
    "sharedMemory": "other processes' shared memory, semaphores and queues",
    "sharedLimits": "taking what all of the user's processes share",
    "keyrings": "the user's keyrings",
    "namespaces": "making namespaces",
    "kernelInterfaces": "kernel interfaces that no engine needs",
    "capabilities": "what only an administrator may do",
    "processes": "starting processes and programs",
    "outliving": "outliving the daemon",
}
"""Attempts that only some systems support; those that were made must be blocked, too."""


def confine(
    scratch: str,
    readable: Iterable[str],
    kernel: Kernel | None = None,
    *,
    writable: Iterable[str] = (),
    processes: bool = False,
    mac: Darwin | None = None,
) -> SandboxReport:
    """Give up everything that the engine does not need, irrevocably, and report what is really blocked.

    Never raises: what cannot be enforced is reported.

    :param scratch: the folder that stays writable.
    :param readable: folders and files of the granted models.
    :param writable: further writable folders, for preparing a model.
    :param processes: whether it may start a compiler. It and its processes form one group, which is killed together.
    :param kernel: the calls to Linux; tests replace them.
    :param mac: the calls to macOS; tests replace them.
    """
    readable, writable = list(readable), list(writable)
    home = os.path.expanduser("~")
    given = app_sandbox.given(mac)
    rules = places.rules(scratch, readable, home, writable)
    outside = macos.user_folders() if given else _outside(home, scratch, rules)
    places.redirect_caches(scratch)
    details: dict[str, str] = {}
    means: list[str] = []
    if sys.platform == "linux":
        from locara_sidecar.engine.sandbox.linux.kernel import Kernel as RealKernel

        prepared_from = readable if writable else None
        _confine_linux(kernel or RealKernel(), rules, means, details, prepared_from, processes=processes)
    elif sys.platform == "darwin" and not given:
        macos.confine(rules, means, details, mac)
    found = attempts.all_attempts(outside, os.path.dirname(scratch) or "/")
    if sys.platform == "darwin":
        found.update(macos.further_attempts(mac))
        if not given:  # within the app's container this is allowed
            found.update(macos.links(scratch, mac))
    if given:
        return macos.report_of_app(given, found)
    return report("+".join(means) or "none", found, details, processes=processes)


def report(kind: str, found: dict[str, Outcome], details: dict[str, str], *, processes: bool = False) -> SandboxReport:
    """Report what the attempts found, in words and in one flag.

    :param processes: whether the engine may start processes, because it was asked to compile.
    """
    essential = _ESSENTIAL | _ESSENTIAL_HERE.get(sys.platform, {})
    failed = [words for name, words in essential.items() if found.get(name) != "blocked"]
    # on macOS, the target of an attempt may not exist
    holds = {"blocked", "unknown"} if sys.platform == "darwin" else {"blocked"}
    further = [name for name in _FURTHER if name in found and not (processes and name == "processes")]
    failed += [_FURTHER[name] for name in further if found[name] not in holds]
    if "threads" in details:
        failed.append("what threads that were already running do")
    if "unknownRules" in details:  # not everything that they deny is tested
        failed.append("what rules deny that this system does not know")
    enforced = not failed
    if enforced:
        more = "; all of it was blocked."
        if "kernelInterfaces" in found:
            own = "to leave its process group" if processes else "to start processes"
            more = f", other processes and the kernel's interfaces, and {own}{more}"
        reason = f"The engine tried to read and write the user's files and to reach the network{more}"
        if processes:
            reason += " It may start processes, because it was told to compile; they end with it."
    elif kind == "none":
        reason = "The engine is not confined on this system; it is given only the folders of granted models."
    else:
        reason = f"The engine tried what is forbidden, and the following was not blocked: {', '.join(failed)}."
    lacking = [f"{name}: {words}" for name, words in details.items() if not words.startswith(("in use", "version"))]
    if lacking and not enforced:
        reason += f" ({'; '.join(lacking)})"
    return SandboxReport(kind=kind, enforced=enforced, reason=reason, details={**found, **details})


def _confine_linux(
    kernel: Kernel,
    rules: list[tuple[str, landlock.Right]],
    means: list[str],
    told: dict[str, str],
    prepared_from: list[str] | None = None,
    *,
    processes: bool = False,
) -> None:
    if (threads := _threads()) > 1:
        told["threads"] = f"{threads} were running, but a confinement covers only the one that requests it"
    # the namespace first: it needs /proc/self writable, and privileges; Landlock last: it denies the rest
    with attempts.telling(told, "networkNamespace"):
        told["networkNamespace"] = network.leave(kernel)
        means.append("namespace")
    with attempts.telling(told, "limits"):
        alone = told["networkNamespace"].endswith("user namespace")
        told["limits"] = privileges.limit(kernel, prepared_from, counted_alone=alone)
    with attempts.telling(told, "privileges"):
        told["privileges"] = privileges.give_up(kernel)
    with attempts.telling(told, "callFilter"):
        told["callFilter"] = calls.apply(kernel, processes=processes)
        _forget_binding()
        means.append("seccomp")
    with attempts.telling(told, "landlock"):
        abi = kernel.landlock_abi()
        landlock.restrict(kernel, abi, rules)
        told["landlock"] = f"version {abi}"
        means.insert(0, "landlock")


def _outside(home: str, scratch: str, rules: list[tuple[str, landlock.Right]]) -> list[str]:
    """Return folders that the user can list and the engine must not. Called before confinement."""
    given = [spelt(path) + os.sep for path, _ in rules]
    listed = _LISTED.get(sys.platform, ())
    candidates = {spelt(path) for path in (*listed, home, os.path.dirname(scratch)) if os.path.isabs(path)}
    outside = [path for path in candidates if not any(f"{path}{os.sep}".startswith(folder) for folder in given)]
    return [path for path in outside if attempts.read(path) == "open"]


def _forget_binding() -> None:
    """Prevent GNU's OpenMP from binding threads to processors.

    One thread does that for the others, which the filter denies, and the library would then end the process.
    """
    for name in ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"):
        os.environ.pop(name, None)


def _threads() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return 1
