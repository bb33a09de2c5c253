"""How much memory this machine has for an engine. The limits are those of the operating systems, not our
measurements.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from locara_sidecar.machine import memory

if TYPE_CHECKING:
    from locara_sidecar.machine.macos.darwin import Darwin

GIB = 1 << 30
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
_DRIVER = int(0.6 * GIB)  # what a GPU's driver and context take


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes, container limits applied.

    :param kind: ``unified`` (Apple silicon), ``gpu`` (``total`` and ``available`` are the GPU's own) or ``ram``.
    :param available: what could be allocated now; for an engine, including what it already holds.
    :param reserved: what other daemons' engines hold or have reserved.
    :param working_set: of unified memory, what the GPU may hold, if the system says.
    :param half: the type of two bytes that ``auto`` means.
    """

    kind: Literal["unified", "gpu", "ram"]
    total: int
    available: int
    reserved: int = 0
    working_set: int | None = None
    half: Literal["bfloat16", "float16"] = "bfloat16"


def capacity(machine: Machine) -> int:
    """Return the most that one engine may use, in bytes, when nothing else needs memory."""
    if machine.kind == "gpu":
        return max(0, machine.total - _DRIVER)
    if machine.kind == "unified":
        # Metal's recommended maximum working set: two thirds, three quarters from 36 GiB on (its figures as printed by
        # llama.cpp: 22906 MB of 32 GiB, 28991 MB of 36, 51540 MB of 64)
        usual = machine.total * 3 // 4 if machine.total >= 36 * GIB else machine.total * 2 // 3
        return min(machine.working_set or usual, machine.total)
    return machine.total * 9 // 10


def free(machine: Machine) -> int:
    """Return what an engine could get now: what the system says, minus what others have reserved but not yet used."""
    return max(0, min(machine.available, capacity(machine) - machine.reserved))


def limit(machine: Machine) -> int:
    """Return the limit for planning. macOS makes room by compressing other programs' memory, so there it is the
    capacity; elsewhere a process that takes more than what is free is killed or refused.
    """
    return max(0, capacity(machine) - machine.reserved) if machine.kind == "unified" else free(machine)


def of_engine(*, unified: bool, reserved: int, working_set: int | None = None) -> Machine:
    """Return this machine as seen by an engine in main memory; what this process already holds counts as available.

    :param reserved: bytes that other daemons' engines hold or have reserved.
    :param working_set: what the GPU says it may hold, in bytes.
    """
    total, available = host_memory()
    if not unified:
        return Machine(kind="ram", total=total, available=available + memory.resident(), reserved=reserved)
    return Machine(
        kind="unified",
        total=total,
        available=available + memory.resident(),
        reserved=reserved,
        working_set=working_set or wired_limit(),
    )


def wired_limit(mac: Darwin | None = None) -> int | None:
    """Return the user-defined limit on what the GPU may hold (``sysctl iogpu.wired_limit_mb``), in bytes; None if
    it is left to the system, and on other systems.
    """
    if sys.platform != "darwin":
        return None
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        set_to = (mac or darwin.Darwin()).number("iogpu.wired_limit_mb")
    except OSError:
        return None
    return set_to << 20 if set_to > 0 else None


def host_memory() -> tuple[int, int]:
    """Return (total, available) bytes of this machine's main memory; a container's limit bounds both."""
    whole = _memory()
    total, available = _container() or whole
    return min(total, whole[0]), min(available, whole[1])


def _memory() -> tuple[int, int]:
    import psutil

    try:
        virtual = psutil.virtual_memory()
    except OSError:
        if sys.platform == "win32":
            raise
        # no /proc: the C library asks the kernel, which does not count the file cache as available
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return virtual.total, virtual.available


def _container(
    group: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int] | None:
    """Return (limit, available) of this process's cgroup and those above it, the tightest of each, on Linux
    (version 2); None if none is limited. The file cache counts as available, because the kernel drops it first.
    """
    try:
        own = mounted / group.read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return None
    above = [folder for folder in (own, *own.parents) if folder.is_relative_to(mounted)]
    found = [limits for folder in above if (limits := _limits(folder)) is not None]
    return (min(limit for limit, _ in found), min(available for _, available in found)) if found else None


def _limits(folder: Path) -> tuple[int, int] | None:
    """Return (limit, available) of one cgroup."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        rows = [row.split() for row in (folder / "memory.stat").read_text().splitlines()]
        cache = sum(int(count) for name, count in rows if name in ("active_file", "inactive_file"))
        used = int((folder / "memory.current").read_text()) - cache
        return int(limit), max(0, int(limit) - used)
    except (OSError, ValueError):
        return None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 multiplication; without that it is slower than float32."""
    try:
        return _has_bfloat16()
    except OSError:
        return False


@functools.cache  # the file is long on a machine with many processors
def _has_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return any(re.search(rf"\b{flag}\b", flags) for flag in _BFLOAT16_FLAGS)
