"""How much memory this machine has for an engine. The limits are the operating systems' own, not measured by us."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from locara_sidecar.machine import memory

GIB = 1 << 30
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
_DRIVER = int(0.6 * GIB)  # what a GPU's driver and context take


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes, container limits applied.

    :param kind: ``unified`` (Apple silicon), ``gpu`` (``total`` and ``available`` are the GPU's own) or ``ram``.
    :param available: what could be had now; for an engine that asks, what it has already counts as available.
    :param reserved: what other daemons' engines hold or were promised.
    """

    kind: Literal["unified", "gpu", "ram"]
    total: int
    available: int
    reserved: int = 0


def capacity(machine: Machine) -> int:
    """The most that one engine may use, in bytes, when nothing else needs memory."""
    if machine.kind == "gpu":
        return max(0, machine.total - _DRIVER)
    if machine.kind == "unified":
        # what Metal recommends as the largest working set: two thirds, three quarters on large machines
        return machine.total * 3 // 4 if machine.total > 36 * GIB else machine.total * 2 // 3
    return machine.total * 9 // 10


def free(machine: Machine) -> int:
    """What an engine could get now: what the system says, less what is promised to others but not yet taken."""
    return max(0, min(machine.available, capacity(machine) - machine.reserved))


def limit(machine: Machine) -> int:
    """What an engine may plan with. Apple's system makes room by compressing what others hold, so there it is the
    capacity; elsewhere whoever takes more than what is free is killed or refused."""
    return max(0, capacity(machine) - machine.reserved) if machine.kind == "unified" else free(machine)


def of_engine(*, unified: bool, reserved: int) -> Machine:
    """This machine as an engine in main memory sees it; what this process has already counts as available.

    :param reserved: bytes that other daemons' engines hold or were promised.
    """
    total, available = host_memory()
    kind = "unified" if unified else "ram"
    return Machine(kind=kind, total=total, available=available + memory.resident(), reserved=reserved)


def host_memory() -> tuple[int, int]:
    """(total, available) bytes of this machine's main memory; a container's limit bounds both."""
    whole = _memory()
    total, available = _container() or whole
    return min(total, whole[0]), min(available, whole[1])


def _memory() -> tuple[int, int]:
    import psutil

    try:
        virtual = psutil.virtual_memory()
    except OSError:  # no /proc: the C library asks the kernel, which does not count the cache of files as available
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return virtual.total, virtual.available


def _container(
    group: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int] | None:
    """(limit, available) of this process's control group and those above it, the tightest of each, on Linux
    (version 2); None where none is limited. The cache of files counts as available: the kernel drops it first."""
    try:
        own = mounted / group.read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return None
    above = [folder for folder in (own, *own.parents) if folder.is_relative_to(mounted)]
    found = [limits for folder in above if (limits := _limits(folder)) is not None]
    return (min(limit for limit, _ in found), min(available for _, available in found)) if found else None


def _limits(folder: Path) -> tuple[int, int] | None:
    """(limit, available) of one control group."""
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
    """Whether the processor multiplies bfloat16 itself; without that it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(re.search(rf"\b{flag}\b", flags) for flag in _BFLOAT16_FLAGS)
