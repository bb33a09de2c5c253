"""The packages of a bundle: the locked ones from the index and our own, without files that are never imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bundle.layout import Layout

LEFT_OUT = frozenset({"hf-xet", "pygments", "markdown-it-py", "mdurl", "colorama", "cuda-toolkit"})
"""Required by packages that work without them: we have our own downloads, show no source or Markdown, and
``cuda-toolkit`` has no files, only the names of NVIDIA's other packages, which are in the lock anyway."""
_FOLDERS = frozenset({"tests", "test", "include", "__pycache__", "cmake", "f2py", "_pyinstaller", "sboms"})
_SUFFIXES = frozenset({".pyi", ".pyx", ".pxd", ".c", ".h", ".hpp", ".cpp", ".a", ".lib", ".cmake", ".pth", ".typed"})
_RECORDS = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
_KEPT = ("torch/testing", "numpy/testing", "triton/")
"""Below these folders, names that are left out elsewhere are part of the program."""
_ONLY = (
    *("PIL/_avif", "PIL/_imagingtk", "pillow.libs/libavif", "PIL/.dylibs/libavif"),
    *(f"bitsandbytes/libbitsandbytes_{other}" for other in ("cuda11", "cuda12", "rocm", "xpu")),
    *(f"nvidia/nvshmem/lib/nvshmem_{other}" for other in ("bootstrap_mpi", "bootstrap_pmi", "bootstrap_shmem")),
    *("nvidia/nvshmem/lib/nvshmem_transport_", "nvidia/cu13/lib/libcufile_rdma"),
)
"""Prefixes of single files: picture formats and windows that we do not use, devices and CUDA versions that the locked
torch is not for, and communication within a cluster. The last two link to libraries that would be included whenever
the build machine happens to have them."""


def wanted(lock: str) -> str:
    """Return a lock without the packages left out; an entry is a line with ``==`` and its lines of hashes."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock)
    return "\n".join(entry for entry in entries if entry.partition("==")[0].strip().lower() not in LEFT_OUT)


def install(layout: Layout, lock: Path, tools: Path) -> None:
    """Install the lock's packages, each checked against its hash; nothing is built, resolved or run."""
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch, "lock.txt")
        asked.write_text(wanted(lock.read_text()))
        words = ["pip", "install", "--quiet", "--python", layout.python, "--target", layout.site, "--no-deps"]
        words += ["--require-hashes", "--only-binary", ":all:", "--no-compile-bytecode", "--link-mode", "copy"]
        subprocess.run([_tool(tools, "uv"), *map(str, words), "-r", str(asked)], check=True)
    shutil.rmtree(layout.site / "bin", ignore_errors=True)
    (layout.site / ".lock").unlink(missing_ok=True)


def install_own(layout: Layout, root: Path, tools: Path, epoch: int) -> None:
    """Build the wheel of this checkout, as it would be in an index."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [_tool(tools, "python"), "-m", "hatchling", "build", "-t", "wheel", "-d", scratch]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        subprocess.run(words, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(layout.site)
    shutil.rmtree(layout.site / "locara_conformance")  # it tests sidecars; an app ships one


def prune(site: Path) -> None:
    """Delete tests, headers, types, installers' records, and single files that nothing loads."""
    for folder, names, files in os.walk(str(site)):
        where = Path(folder).relative_to(site).as_posix()
        kept = where.startswith(_KEPT)
        unused: list[str] = [] if kept else [name for name in names if name in _FOLDERS]
        for name in unused:
            if not f"{where}/{name}".removeprefix("./").startswith(_KEPT):
                shutil.rmtree(Path(folder, name))
                names.remove(name)
        for name in files:
            path = Path(folder, name)
            if is_unused(path.relative_to(site).as_posix()):
                path.unlink()


def is_unused(path: str) -> bool:
    """Whether a file is left out, by its path below ``site-packages``."""
    name = path.rpartition("/")[2]
    if ".dist-info/" in path:
        return name in _RECORDS
    if path.startswith(_ONLY) or path.endswith(".pth"):
        return True
    return not path.startswith(_KEPT) and os.path.splitext(name)[1] in _SUFFIXES


def compile_bytecode(layout: Layout) -> None:
    """Compile every module to bytecode that contains no time and no path of the build machine, and is never checked
    against its source: the folder is read-only where it is used, and the list has its hashes."""
    words = [str(layout.python), "-P", "-s", "-B", "-m", "compileall", "-q", "-s", str(layout.root), "-p", "/bundle"]
    words += ["--invalidation-mode", "unchecked-hash", str(layout.library)]
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONHASHSEED": "0",
    }  # the order of sets ends up in the bytecode
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("***")]
    if failed:
        print(f"without bytecode, because they are not for this Python version: {len(failed)} files", file=sys.stderr)


def _tool(tools: Path, name: str) -> str:
    return str(tools / ("Scripts" if sys.platform == "win32" else "bin") / name)
