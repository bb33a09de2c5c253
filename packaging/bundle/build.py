"""``make bundle``: the folder that an app ships, from this checkout, for this machine.

In this order: the interpreter, the locked packages, our own wheel, the shared libraries that a machine may lack,
bytecode, the launcher, licences and the bill of materials, times and permissions, and finally the hash of every file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from bundle import interpreter, libraries, licences, packages, sbom
from bundle.layout import Layout, normalise
from locara_sidecar.machine import bundle as shipped

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("mlx", "torch", "none")
_LAUNCHER = Path(__file__).with_name("launcher.sh")
_ARCHITECTURES = {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64"}
_SYSTEMS = {"linux": "unknown-linux-gnu", "darwin": "apple-darwin", "win32": "pc-windows-msvc"}


def target(machine: str = platform.machine(), system: str = sys.platform) -> str:
    """The target triple, in the form that Rust and Tauri use."""
    return f"{_ARCHITECTURES.get(machine, machine)}-{_SYSTEMS[system]}"


def main() -> int:
    """Build the folder; print its path, its size and its largest files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="mlx")
    parser.add_argument(
        "--python", type=Path, help="the folder of a relocatable CPython; by default this interpreter is copied"
    )
    parser.add_argument("--tools", type=Path, required=True, help="the virtual environment of tools.txt")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    tools = options.tools.absolute()  # they are run from other folders, too
    folder = build(options.engine, options.out, tools, options.python)
    print(f"{folder}\n")
    print("\n".join(sizes(folder)))
    return 0


def build(engine: str, out: Path, tools: Path, python: Path | None) -> Path:
    """:raises subprocess.CalledProcessError: if a tool fails; RuntimeError if the folder would not be as promised."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or 0)
    layout = Layout(out / f"locara-sidecar-{target()}")
    shutil.rmtree(layout.root, ignore_errors=True)
    version = interpreter.copy(python or Path(sys.base_prefix), layout)
    packages.install(layout, Path(__file__).parent / "lock" / f"{engine}.txt", tools)
    packages.install_own(layout, ROOT, tools, epoch)
    licences.gather(layout.site)
    packages.prune(layout.site)
    carried: dict[str, Path] = libraries.carry(layout, tools) if sys.platform == "linux" else {}
    packages.compile_bytecode(layout)
    if sys.platform != "win32":
        layout.launcher.write_text(_LAUNCHER.read_text().replace("@PYTHON@", layout.python.name))
    contents = sbom.components(layout, version, carried)
    licences.collect(layout, contents, ROOT, python or Path(sys.base_prefix))
    _json(layout.root / "sbom.cdx.json", sbom.document(contents, target(), engine, epoch))
    _json(layout.root / shipped.FACTS, _facts(layout, engine, version))
    normalise(layout, epoch)
    shipped.write(layout.root)
    normalise(layout, epoch)
    return layout.root


def _facts(layout: Layout, engine: str, python: str) -> dict[str, object]:
    import locara_sidecar

    changed = _git("status", "--porcelain", "--untracked-files=no")
    own = [layout.python.relative_to(layout.root).as_posix(), "-I", "-X", "utf8", "-B", "-m", "locara_sidecar"]
    return {
        "name": "locara-sidecar",
        "version": locara_sidecar.__version__,
        "target": target(),
        "engine": engine,
        "commit": _git("rev-parse", "HEAD") + ("+changes" if changed else ""),
        "python": python,
        "command": own if sys.platform == "win32" else [layout.launcher.name],
        "commandWithoutShell": own,
        **({"glibc": libraries.glibc(layout.root)} if sys.platform == "linux" else {}),
    }


def sizes(folder: Path, most: int = 10) -> list[str]:
    """Return lines with the total in megabytes (10^6 bytes), the number of files, and the largest files."""
    files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    lines = [f"{sum(files.values()) / 1e6:8.1f} MB in {len(files)} files"]
    largest = sorted(files, key=files.__getitem__, reverse=True)[:most]
    return lines + [f"{files[path] / 1e6:8.1f} MB {path.relative_to(folder)}" for path in largest]


def _json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _git(*words: str) -> str:
    """Return git's output; empty outside a checkout, such as in an unpacked sdist."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
