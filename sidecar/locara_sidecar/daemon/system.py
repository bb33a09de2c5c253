"""What this machine is: platform, memory, folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.messages import MemoryInfo, PlatformInfo, SandboxInfo, SystemInfo
from locara_sidecar import __version__
from locara_sidecar.daemon import engine_choice
from locara_sidecar.engine.machine import Machine, host_memory

if TYPE_CHECKING:
    from locara_sidecar.engine.lazy import LazyEngine


def memory(engine_pid: int | None) -> MemoryInfo:
    """Bytes, as the operating system counts them; a container's limit bounds total and available."""
    import psutil

    total, available = host_memory()
    engine = None
    if engine_pid is not None:
        try:
            engine = psutil.Process(engine_pid).memory_info().rss
        except psutil.Error:
            engine = None
    return MemoryInfo(total=total, available=available, daemon=psutil.Process().memory_info().rss, engine=engine)


def machine(root: Path, engine: str) -> Machine:
    """This machine as the memory plan of ``engine`` sees it.

    :param root: the cache, where other daemons tell what their engines take.
    """
    from locara_sidecar.daemon import gpu  # loads ctypes
    from locara_sidecar.models.lease import Leases

    reserved = Leases(root).reserved()
    if engine == "torch" and (found := gpu.memory()) is not None:
        return Machine(kind="gpu", total=found[0], available=found[1], reserved=reserved)
    total, available = host_memory()
    kind = "unified" if engine_choice.on_apple_silicon() else "ram"
    return Machine(kind=kind, total=total, available=available, reserved=reserved)


def cache_root(asked: str | None) -> Path:
    """``--cache-dir``, else ``LOCARA_CACHE_DIR``, else the platform's cache folder, ``Locara``."""
    if asked or os.environ.get("LOCARA_CACHE_DIR"):
        return Path(asked or os.environ["LOCARA_CACHE_DIR"]).absolute()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "Locara"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "Locara" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "Locara"


def sandbox(engine: LazyEngine) -> SandboxInfo:
    """What the last engine found when it tried its bars; before one has started nothing is known for sure."""
    if engine.sandbox is not None:
        return msgspec.convert(engine.sandbox, SandboxInfo, from_attributes=True)
    kind = {"linux": "landlock", "darwin": "seatbelt"}.get(sys.platform, "none")
    reason = "Unknown until the engine has started: it confines itself then and tries what is forbidden."
    if kind == "none":
        reason = "There is no confinement for the engine on this system; it is told only the folders of granted models."
    return SandboxInfo(enforced=False, kind=kind, reason=reason)


def info(active: str, engine: LazyEngine, cache: Path) -> SystemInfo:
    """The answer of ``system.info``."""
    import platform  # asked for rarely, and not free to import

    return SystemInfo(
        platform=PlatformInfo(
            system=platform.system(),
            release=platform.release(),
            machine=platform.machine(),
            python=platform.python_version(),
            cpus=os.cpu_count() or 1,
        ),
        memory=memory(engine.status().pid),
        engines=engine_choice.engines(active, engine.device, engine.note),
        sandbox=sandbox(engine),
        cache_root=str(cache),
        version=__version__,
    )
