"""Facts about this machine: platform, memory, folders."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from locara_protocol.messages import MemoryInfo, PlatformInfo, PowerInfo, SandboxInfo, SystemInfo
from locara_sidecar import __version__
from locara_sidecar.machine import engine_choice, supported
from locara_sidecar.machine.machine import Machine, host_memory, wired_limit
from locara_sidecar.machine.macos import app_sandbox
from locara_sidecar.machine.memory import resident, resident_of
from locara_sidecar.machine.processes.trees import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.daemon.engine_host.lazy import LazyEngine
    from locara_sidecar.ipc.frames import SandboxReport


_WILL_BE_TRIED = {"linux": "landlock+namespace+seccomp", "darwin": "seatbelt"}
"""By platform: how an engine names the means of its confinement if all of them are available."""


class EngineFacts(NamedTuple):
    """What the engine's client knows about its process; read on the event loop."""

    pid: int | None
    device: str | None
    note: str | None
    sandbox: SandboxReport | None


def facts_of(engine: LazyEngine) -> EngineFacts:
    """Return what the engine's client knows now."""
    return EngineFacts(engine.status().pid, engine.device, engine.note, engine.sandbox)


def memory(engine_pid: int | None) -> MemoryInfo:
    """Return memory in bytes, as the operating system counts it; a container's limit bounds total and available."""
    total, available = host_memory()
    engine = None if engine_pid is None else resident_of(engine_pid)
    return MemoryInfo(total=total, available=available, daemon=resident(), engine=engine)


def machine(root: Path, engine: str, *, prefer_float16: bool = False) -> Machine:
    """Return this machine as the memory plan of ``engine`` sees it.

    :param root: the cache, where other daemons record what their engines take.
    :param prefer_float16: whether the engine is told to take float16 where a GPU has no bfloat16.
    """
    from locara_sidecar.machine import chips, gpu  # loads ctypes
    from locara_sidecar.models.lease import Leases

    reserved = Leases(root).reserved()
    if supported.ENGINES[engine].nvidia and (found := gpu.memory()) is not None:
        return Machine(kind="gpu", total=found[0], available=found[1], reserved=reserved)
    total, available = host_memory()
    kind = "unified" if engine_choice.on_apple_silicon() else "ram"
    narrow = prefer_float16 and supported.ENGINES[engine].prefers_float16 and chips.lacks_bfloat16(chips.name())
    return Machine(
        kind=kind,
        total=total,
        available=available,
        reserved=reserved,
        working_set=wired_limit(),
        half="float16" if narrow else "bfloat16",
    )


def machines(root: Path, engines: Iterable[str], *, prefer_float16: bool = False) -> dict[str, Machine]:
    """Return :func:`machine` for each of ``engines``."""
    return {engine: machine(root, engine, prefer_float16=prefer_float16) for engine in engines}


def cache_root(asked: str | None) -> Path:
    """Return ``--cache-dir``, else ``LOCARA_CACHE_DIR``, else ``Locara`` in the platform's cache folder.

    :raises FileNotFoundError: for a relative path if the working directory was deleted.
    :raises OSError: EILSEQ for a name that is not UTF-8: neither an answer nor a line to the engine can contain it.
    """
    root = _cache_root(asked)
    if (told := shown(str(root))) != str(root):
        why = "The name of the cache folder is not valid UTF-8; choose another with --cache-dir or LOCARA_CACHE_DIR"
        raise OSError(errno.EILSEQ, why, told)
    return root


def _cache_root(asked: str | None) -> Path:
    named = asked or os.environ.get("LOCARA_CACHE_DIR")
    if named:
        return _absolute(Path(named), "the cache folder must be named by an absolute path")
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "Locara"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", _home() / "AppData" / "Local")) / "Locara" / "Cache"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else _home() / ".cache") / "Locara"  # relative ones must be ignored


def _home() -> Path:
    """Return the user's home folder; for a user without one (in a container, a service) the root folder, as for
    a login.
    """
    try:
        return _absolute(Path.home(), "HOME must be an absolute path")
    except RuntimeError:
        return Path("/")


def _absolute(path: Path, rule: str) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"The working folder was deleted; {rule}", str(path)) from None


def sandbox(engine: EngineFacts) -> SandboxInfo:
    """Return what the last engine found out about its sandbox; before the first one, nothing is certain."""
    if engine.sandbox is not None:
        return msgspec.convert(engine.sandbox, SandboxInfo, from_attributes=True)
    kind = app_sandbox.given() or _WILL_BE_TRIED.get(sys.platform, "none")
    reason = "Unknown until the engine starts: it then confines itself and tries what is forbidden."
    if kind in {"app-sandbox", "inherited"}:
        reason = (
            "This daemon was started inside a sandbox, which the engine inherits; it cannot enter a narrower one."
            " What it covers is unknown until the engine has started and tested it."
        )
    if kind == "none":
        reason = "The engine cannot be confined on this system; it is given only the folders of granted models."
    return SandboxInfo(enforced=False, kind=kind, reason=reason)


def _power() -> PowerInfo | UnsetType:
    from locara_sidecar.machine.power import power

    found = power()
    if found is None:
        return UNSET
    return PowerInfo(
        low_power=found.low_power, thermal_state=UNSET if found.thermal_state is None else found.thermal_state
    )


def info(active: str, cache: Path, engine: EngineFacts) -> SystemInfo:
    """Build the result of ``system.info``; accesses the disk."""
    import platform  # rarely needed, and slow to import

    return SystemInfo(
        platform=PlatformInfo(
            system=platform.system(),
            release=platform.release(),
            machine=platform.machine(),
            python=platform.python_version(),
            cpus=os.cpu_count() or 1,
        ),
        memory=memory(engine.pid),
        engines=engine_choice.engines(active, engine.device, engine.note),
        sandbox=sandbox(engine),
        cache_root=str(cache),
        version=__version__,
        power=_power(),
    )
