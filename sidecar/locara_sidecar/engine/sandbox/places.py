"""Which files the engine can still reach, and where the libraries' caches go.

Readable and executable: the interpreter, its packages, and the system's libraries and tools (such as the compiler that
Inductor runs, if processes are allowed at all). Readable: the granted models, the hardware in /sys, the limits of its
own control group, the machine's and this process's entries in /proc, and the few files of /etc that libraries need.
Readable and writable: the scratch folder, the folder into which a model is prepared if the engine was started for that,
and the device nodes of accelerators. Nothing else: not the home folder, the temporary folder or other models.
"""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import locara_protocol
import locara_sidecar
from locara_sidecar.machine.macos.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from locara_sidecar.engine.sandbox.linux.landlock import Right

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"),
    *("/nix/store", "/gnu/store", "/run/current-system", "/run/opengl-driver"),
)
_TOOLCHAINS = ("CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "HIP_PATH")
_SETTINGS = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "localtime", "timezone"),
    *("locale.alias", "passwd", "group", "nsswitch.conf", "ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies"),
    *("OpenCL", "vulkan", "glvnd", "nvidia"),
)
_MACHINE = (
    *("cmdline", "cpuinfo", "devices", "filesystems", "loadavg", "meminfo", "modules", "stat", "swaps", "uptime"),
    *("version", "vmstat", "zoneinfo", "bus", "driver", "irq", "sys"),
)
"""Entries of /proc about the machine and its drivers, but not about other processes."""
_HARDWARE = ("block", "bus", "class", "dev", "devices", "firmware", "hypervisor", "kernel/mm", "module", "power")
"""Parts of /sys without its file systems: that of control groups lists every process and what the user runs."""
_LIMITS = ("memory.max", "memory.current", "memory.stat", "cpu.max")
"""A control group's limits and current use."""
_DEVICES = (
    *("null", "zero", "full", "random", "urandom"),
    *("nvidia*", "nvidia-caps/*", "dri/renderD*", "kfd", "dxg", "nvmap", "nvhost*", "accel/*"),
)
_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "include", "share", "pyvenv.cfg")

_CACHES = {
    **dict.fromkeys(("HOME", "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR"), ""),
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "HF_HOME": "cache/huggingface",
    "TORCH_HOME": "cache/torch",
    "TORCHINDUCTOR_CACHE_DIR": "cache/inductor",
    "TORCH_EXTENSIONS_DIR": "cache/torch-extensions",
    "TRITON_CACHE_DIR": "cache/triton",
    "TRITON_HOME": "cache/triton",
    "CUDA_CACHE_PATH": "cache/cuda",
    "MIOPEN_USER_DB_PATH": "cache/miopen",
    "MIOPEN_CUSTOM_CACHE_DIR": "cache/miopen",
    "NUMBA_CACHE_DIR": "cache/numba",
    "MPLCONFIGDIR": "cache/matplotlib",
}


def redirect_caches(scratch: str) -> None:
    """Redirect the home, temporary and cache folders of this process and its children into scratch."""
    import site

    # child interpreters look for the user's packages in the old home, not in the new one
    if site.ENABLE_USER_SITE and (base := site.getuserbase()):
        os.environ["PYTHONUSERBASE"] = base
    for name, folder in _CACHES.items():  # libraries create them on demand
        os.environ[name] = os.path.join(scratch, folder) if folder else scratch
    if "tempfile" in sys.modules:  # it may have cached its folder
        import tempfile

        tempfile.tempdir = None
    sys.dont_write_bytecode = True  # packages are read-only from here on
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def rules(
    scratch: str, readable: Iterable[str], home: str | None, writable: Iterable[str] = ()
) -> list[tuple[str, Right]]:
    """Return every rule, each path once. Paths may be missing on this machine.

    :param readable: folders and files of granted models.
    :param home: the user's home folder; neither it nor a folder that contains it is ever granted as a whole.
    :param writable: folders besides scratch.
    """
    found: dict[str, Right] = {}

    def add(right: Right, paths: Iterable[str]) -> None:
        for path in paths:
            found.setdefault(path, right)

    add("write", [scratch])
    add("write", (path for path in writable if os.path.isabs(path) and not is_broad(path, home)))
    add("device", _devices())
    add("rename-threads", ["/proc/self/task"])
    add("run", _SYSTEM)
    add("run", _installation(home))
    add("own", ["/proc/self"])
    add("read", [*(f"/sys/{name}" for name in _HARDWARE), *(f"/proc/{name}" for name in _MACHINE)])
    add("read", _limits())
    add("read", (f"/etc/{name}" for name in _SETTINGS))
    add("read", (path for path in readable if os.path.isabs(path) and not is_broad(path, home)))
    return list(found.items())


def is_broad(path: str, home: str | None) -> bool:
    """Whether a folder is the root, or is or contains the home folder: more than any library or model needs."""
    real = spelt(path)
    around = [spelt(home)] if home else []
    return real == "/" or any(os.path.commonpath([real, inside]) == real for inside in around)


def _installation(home: str | None) -> Iterator[str]:
    """Yield the interpreter's folders and all places that packages are imported from."""
    candidates = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    candidates += [os.path.dirname(os.path.realpath(sys.executable))]
    candidates += [os.environ[name] for name in _TOOLCHAINS if os.environ.get(name)]
    candidates += [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if os.path.isabs(path)]
    for path in candidates:
        if is_broad(path, home):  # for a prefix such as /, only the parts that belong to an installation
            yield from (os.path.join(path, part) for part in _PARTS)
        else:
            yield path
    yield from (path for path in sys.path if os.path.isabs(path) and not is_broad(path, home))
    for package in (locara_sidecar, locara_protocol):
        yield os.path.dirname(os.path.realpath(package.__file__ or ""))


def _limits(group: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[str]:
    """Yield the limits of this process's control group and those above it (version 2), and nothing else of them."""
    try:
        own = mounted / group.read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return
    for folder in (own, *own.parents):
        if folder.is_relative_to(mounted) and ".." not in folder.parts:
            yield from (str(folder / name) for name in _LIMITS)


def _devices() -> Iterator[str]:
    for pattern in _DEVICES:
        yield from sorted(glob.glob(f"/dev/{pattern}"))
