"""The shared libraries that a bundle contains on Linux, and how its files find them.

It contains the libraries that any file in the folder links to and the folder lacks, if this machine has them; but not
the C library, which every machine has, nor a driver's libraries, which must be the machine's own. The program's
DT_RPATH leads to them: unlike DT_RUNPATH, it also applies to libraries loaded later, and takes precedence over
LD_LIBRARY_PATH (which an AppImage sets).
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bundle.layout import Layout

_SYSTEM = re.compile(
    r"(ld-linux.*|ld64|libc|libm|libdl|libpthread|librt|libutil|libresolv|libanl|libnss_.*|libthread_db|linux-vdso)\.so(\..*)?"
)
"""The libraries of the C library itself."""
_DRIVER = re.compile(
    r"(libcuda|libnvidia-.*|libnvcuvid|libGL.*|libEGL.*|libOpenCL|libvulkan|libhsa-.*|libamdhip64)\.so(\..*)?"
)
_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
_ELF = b"\x7fELF"
_VERSION = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?=\0|\.\d+\0)")


def is_elf(path: Path) -> bool:
    """Whether a file is a program or library of Linux, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) == _ELF


def glibc(root: Path) -> str:
    """Return the oldest glibc that has everything that the files need, such as ``2.34``."""
    found = [(2, 0)]
    for path in root.rglob("*"):
        if path.is_file() and is_elf(path):
            found += [(int(major), int(minor)) for major, minor in _VERSION.findall(path.read_bytes())]
    return ".".join(map(str, max(found)))


def missing(needed: Iterable[str], present: Iterable[str]) -> set[str]:
    """Return those names that files link to that must be looked for on this machine."""
    names = {name for name in needed if not (_SYSTEM.fullmatch(name) or _DRIVER.fullmatch(name))}
    return names - set(present)


def carry(layout: Layout, tools: Path) -> dict[str, Path]:
    """Copy libraries until none is missing; return name → the file on this machine that was copied."""
    patchelf = str(tools / "bin" / "patchelf")
    carried: dict[str, Path] = {}
    lacking: set[str] = set()
    needed = {path: _needed(patchelf, path) for path in layout.root.rglob("*") if path.is_file() and is_elf(path)}
    while names := missing(itertools.chain(*needed.values()), {path.name for path in needed}) - lacking:
        for name in sorted(names):
            found = _find(name)
            if found is None:
                lacking.add(name)
                print(f"not on this machine, so not included: {name}")
            else:
                carried[name] = found
                copy = layout.home / "lib" / name
                shutil.copyfile(found, copy)
                needed[copy] = _needed(patchelf, copy)
    for path, names in needed.items():
        _lead(patchelf, path, layout, uses_carried=not carried.keys().isdisjoint(names))
    return carried


def _lead(patchelf: str, path: Path, layout: Layout, *, uses_carried: bool) -> None:
    """Make the dynamic loader look in the bundle first. A wheel's file is changed only if its DT_RUNPATH would hide the
    program's path."""
    up = {
        layout.python.parent: "$ORIGIN/../lib",
        layout.home / "lib": "$ORIGIN",
        layout.library / "lib-dynload": "$ORIGIN/../..",
    }
    if path.parent in up:
        _run(patchelf, "--force-rpath", "--set-rpath", up[path.parent], str(path))
    elif uses_carried and (paths := _run(patchelf, "--print-rpath", str(path))):
        _run(patchelf, "--force-rpath", "--set-rpath", paths, str(path))


def _needed(patchelf: str, path: Path) -> list[str]:
    try:
        return _run(patchelf, "--print-needed", str(path)).split()
    except subprocess.CalledProcessError:  # an object without a dynamic section, such as code for a device
        return []


def _find(name: str) -> Path | None:
    for folder in _FOLDERS:
        for path in (Path(folder, name), *sorted(Path(folder).glob(f"*-linux-gnu/{name}"))):
            if path.exists():
                return path.resolve()
    return None


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
