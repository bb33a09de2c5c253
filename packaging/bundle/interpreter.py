"""The interpreter of a bundle, copied without parts that no engine uses, or that apps may not ship.

A relocatable build (python-build-standalone's ``install_only_stripped``) works as it is after that. The machine's own
interpreter (such as pyenv's) is made relocatable afterwards: ``libraries.py`` copies the libraries that it links to.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bundle.layout import Layout

UNUSED = frozenset({
    *("test", "tests", "idlelib", "idle_test", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip"),
    *("pydoc_data", "site-packages", "msilib", "sqlite3", "curses", "dbm", "__pycache__", "venv", "Demo", "distutils"),
})  # fmt: skip
"""Folders and files of the standard library: its own tests, windows, installers, databases."""
UNUSED_EXTENSIONS = (
    *("_tkinter", "_sqlite3", "_curses", "_dbm", "_gdbm", "readline", "nis", "_crypt", "spwd", "ossaudiodev", "_uuid"),
    *("_test", "_ctypes_test", "xx", "_xx"),
)
"""Prefixes of compiled modules. GNU's readline and gdbm are under the GPL; others belong to what is left out above."""


def copy(source: Path, layout: Layout) -> str:
    """Copy the used parts of the interpreter in ``source``; return its version.

    :raises RuntimeError: if there is none, or its version differs from that of the interpreter that builds.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform == "win32":
        return _copy_windows(source, layout)
    program, library = source / "bin" / name, source / "lib" / name
    if not program.exists() or not (library / "os.py").exists():
        raise RuntimeError(f"{source} contains no {name}: name the folder of a relocatable one with --python")
    (layout.home / "bin").mkdir(parents=True)
    shutil.copyfile(program.resolve(), layout.home / "bin" / name)
    layout.python.chmod(0o755)
    shutil.copytree(library, layout.library, ignore=_unused, symlinks=False)
    for shared in (source / "lib").glob(f"lib{name}*"):
        if shared.suffix in (".dylib", ".so") or ".so." in shared.name:
            _copy_once(shared, layout)
    if sys.platform == "linux":
        _strip(layout)
    layout.site.mkdir()
    return _version(layout)


def _copy_windows(source: Path, layout: Layout) -> str:
    shutil.copytree(source / "Lib", layout.home / "Lib", ignore=_unused)
    shutil.copytree(source / "DLLs", layout.home / "DLLs", ignore=_unused)
    for path in source.iterdir():
        if path.name == "python.exe" or path.suffix == ".dll":
            shutil.copyfile(path, layout.home / path.name)
    layout.site.mkdir()
    return _version(layout)


def _unused(folder: str, names: list[str]) -> set[str]:
    left_out = {name for name in names if name in UNUSED or name.startswith("config-")}
    if folder.endswith(("lib-dynload", "DLLs")):
        left_out |= {name for name in names if name.startswith(UNUSED_EXTENSIONS)}
    return left_out


def _copy_once(shared: Path, layout: Layout) -> None:
    """Copy the library under the name by which it is loaded, not the links to it."""
    if not shared.is_symlink() and shared.name != "libpython3.so":
        shutil.copyfile(shared, layout.home / "lib" / shared.name)


def _strip(layout: Layout) -> None:
    """Remove debug symbols: 20 MB less if the machine's own interpreter has them."""
    files = [layout.python, *(layout.home / "lib").glob("libpython*"), *layout.library.glob("lib-dynload/*.so")]
    subprocess.run(["strip", "--strip-unneeded", *map(str, files)], check=True)


def _version(layout: Layout) -> str:
    words = [str(layout.python), "-I", "-B", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
