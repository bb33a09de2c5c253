"""The engine confines itself, once, before it loads anything heavy and while it has one thread; then it tries the bars.

Linux: Landlock for files, TCP, signals and devices; an empty network namespace; no capabilities; and a filter of system
calls for the rest of the network, other processes, what Landlock does not look at, and processes of its own, of which
it has none, so that nothing outlives it. macOS: a Seatbelt profile. Elsewhere nothing, and it says so. What is reported
is what the attempts found, not what was asked for. A confinement cannot be widened: an engine that needs another
model's folder is started anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox import attempts, calls, landlock, network, places, privileges, seatbelt
from locara_sidecar.ipc.frames import SandboxReport

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from locara_sidecar.engine.sandbox.forbidden import Outcome
    from locara_sidecar.engine.sandbox.kernel import Kernel

__all__ = ["confine"]

_ESSENTIAL = {
    "readOutside": "reading the user's other files",
    "writeOutside": "writing outside the scratch folder",
    "tcp": "connecting over TCP",
    "udp": "datagrams, and with them names",
}
"""Attempts that must be blocked for a confinement to count as enforced, and how each is told."""

_FURTHER = {
    "localSockets": "talking to local services over sockets with a path",
    "signals": "signalling the user's other processes",
    "fileAttributes": "changing the mode, owner, times or attributes of files",
    "fileWatches": "watching the user's files",
    "otherProcesses": "reading, tracing and limiting the user's other processes",
    "sharedMemory": "shared memory, semaphores and queues of others",
    "keyrings": "the user's keyrings",
    "namespaces": "making namespaces",
    "kernelInterfaces": "interfaces of the kernel that no engine needs",
    "capabilities": "what only an administrator may",
    "processes": "starting processes and programs",
    "outliving": "outliving the daemon",
}
"""The same of attempts that only some systems know; where one was made, it must be blocked, too."""


def confine(
    scratch: str,
    readable: Iterable[str],
    kernel: Kernel | None = None,
    *,
    writable: Iterable[str] = (),
    processes: bool = False,
) -> SandboxReport:
    """Give up everything that the engine does not need, for good, and report what really holds.

    Never raises: what cannot be enforced is told.

    :param scratch: the folder that stays writable; ``writable``: further ones, that a model is to be prepared into.
    :param readable: folders and files of the granted models.
    :param processes: whether it is to start a compiler. Its processes and it are one group, which is killed as one.
    """
    readable, writable = list(readable), list(writable)
    home = os.path.expanduser("~")
    rules = places.rules(scratch, readable, home, writable)
    outside = _outside(home, scratch, rules)
    places.redirect_caches(scratch)
    details: dict[str, str] = {}
    means: list[str] = []
    if sys.platform == "linux":
        from locara_sidecar.engine.sandbox.kernel import Kernel as RealKernel

        prepared_from = readable if writable else None
        _confine_linux(kernel or RealKernel(), rules, means, details, prepared_from, processes=processes)
    elif sys.platform == "darwin":
        _confine_darwin(rules, means, details)
    found = attempts.all_attempts(outside, os.path.dirname(scratch) or "/")
    return report("+".join(means) or "none", found, details, processes=processes)


def report(kind: str, found: dict[str, Outcome], details: dict[str, str], *, processes: bool = False) -> SandboxReport:
    """What the attempts found, in words and in one flag.

    :param processes: whether it may start processes, because it was asked to compile.
    """
    failed = [words for name, words in _ESSENTIAL.items() if found.get(name) != "blocked"]
    wanted = {"processes"} if processes else set[str]()
    failed += [
        words for name, words in _FURTHER.items() if found.get(name, "blocked") != "blocked" and name not in wanted
    ]
    if "threads" in details:
        failed.append("what threads do that were running already")
    enforced = not failed
    if enforced:
        reason = (
            "The engine tried to read and write the user's files, to reach the network, other processes and the"
            f" kernel's interfaces, and {'to leave its group of processes' if processes else 'to start processes'};"
            " all of it was blocked."
        )
        if processes:
            reason += " It may start processes, since it was told to compile; they end with it."
    elif kind == "none":
        reason = "The engine is not confined on this system; it is told only the folders of granted models."
    else:
        reason = f"The engine tried what is forbidden, and this was not blocked: {', '.join(failed)}."
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
        told["threads"] = f"{threads} were running, and a confinement covers only the one that asks for it"
    # the namespace first: it needs /proc/self writable, and privileges; Landlock last: it closes the rest
    with _telling(told, "networkNamespace"):
        told["networkNamespace"] = network.leave(kernel)
        means.append("namespace")
    with _telling(told, "limits"):
        alone = told["networkNamespace"].endswith("user namespace")
        told["limits"] = privileges.limit(kernel, prepared_from, counted_alone=alone)
    with _telling(told, "privileges"):
        told["privileges"] = privileges.give_up(kernel)
    with _telling(told, "callFilter"):
        told["callFilter"] = calls.apply(kernel, processes=processes)
        _forget_binding()
        means.append("seccomp")
    with _telling(told, "landlock"):
        abi = kernel.landlock_abi()
        landlock.restrict(kernel, abi, rules)
        told["landlock"] = f"version {abi}"
        means.insert(0, "landlock")


def _confine_darwin(rules: list[tuple[str, landlock.Right]], means: list[str], told: dict[str, str]) -> None:
    write = [path for path, right in rules if right == "write"]
    run = [path for path, right in rules if right == "run" and os.path.exists(path)]
    read = [path for path, right in rules if right == "read" and os.path.exists(path)]
    with _telling(told, "seatbelt"):
        seatbelt.load(seatbelt.profile(write, run, read))
        told["seatbelt"] = "in use"
        means.append("seatbelt")


@contextlib.contextmanager
def _telling(told: dict[str, str], name: str) -> Generator[None]:
    """Tell in words why a means is not there, and go on with the others."""
    try:
        yield
    except OSError as error:
        told[name] = f"not available ({errno.errorcode.get(error.errno or 0, str(error))})"


def _outside(home: str, scratch: str, rules: list[tuple[str, landlock.Right]]) -> list[str]:
    """Folders that the user can list and the engine must not: looked at before anything is confined."""
    given = [os.path.realpath(path) + os.sep for path, _ in rules]
    candidates = {os.path.realpath(path) for path in ("/", home, os.path.dirname(scratch)) if os.path.isabs(path)}
    outside = [path for path in candidates if not any(f"{path}{os.sep}".startswith(folder) for folder in given)]
    return [path for path in outside if attempts.read(path) == "open"]


def _forget_binding() -> None:
    """Have GNU's OpenMP bind no thread to a processor: the thread that does it for another one is denied that, and the
    library would end the process."""
    for name in ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"):
        os.environ.pop(name, None)


def _threads() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return 1
