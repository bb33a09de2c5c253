"""``make check-wheels``: checks the sdist and the wheel as an index and a user would.

Builds both, checks them with twine and validate-pyproject, builds the wheel again from the sdist, and installs it into
an empty environment of each supported Python on this machine, where the daemon must answer and draw its test picture;
also with ``uv tool install`` and ``pipx install``. Prints a line for each check; exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
NEEDED = ("locara_sidecar/py.typed", "locara_protocol/py.typed", "locara_sidecar/models/pocket/model_index.json")
_PICTURE = ["demo", "x", "--engine", "fake"]


def lacking(names: list[str]) -> list[str]:
    """Return the required contents that are missing from a wheel's files."""
    return [name for name in NEEDED if name not in names]


def interpreter(version: str) -> str | None:
    """Return a Python of that version that uv or pyenv has here (none is downloaded); None if there is none."""
    words = ["uv", "python", "find", "--no-python-downloads", "--no-project", "--system", version]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return found.stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return next(map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"))), None)


def _run(what: str, *words: str, cwd: Path = ROOT, more: dict[str, str] | None = None) -> bool:
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(more or {})}, capture_output=True, text=True, check=False
    )
    print(f"{'ok' if done.returncode == 0 else 'FAILED'}: {what}", flush=True)
    if done.returncode:
        print(done.stdout[-1500:] + done.stderr[-1500:])
    return done.returncode == 0


def _draws(what: str, program: Path, scratch: Path) -> bool:
    out = scratch / f"out {what}"
    return _run(f"{what}: it draws", str(program), *_PICTURE, "--out", str(out)) and any(out.glob("*.png"))


def _installed(wheel: Path, version: str, scratch: Path) -> bool:
    python = interpreter(version)
    if python is None:
        print(f"not on this machine, so not checked: Python {version}")
        return True
    home = scratch / f"python {version}"
    words = ["uv", "pip", "install", "-q", "--python", str(home / "bin" / "python"), "--only-binary", ":all:"]
    return (
        _run(f"Python {version}: an empty environment", "uv", "venv", "-q", "--python", python, str(home))
        and _run(f"Python {version}: install", *words, "--compile-bytecode", str(wheel))
        and _draws(f"Python {version}", home / "bin" / "locara-sidecar", scratch)
    )


def main() -> int:
    """Return 0 if everything that could be checked here is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="the virtual environment of bundle/tools.txt")
    tools = parser.parse_args().tools.absolute() / "bin"  # they are used from other folders, too
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        good = _run("pyproject.toml", "validate-pyproject", "pyproject.toml")
        if not _run("sdist and wheel", "hatchling", "build", "-d", str(scratch / "dist")):
            return 1
        (wheel,), (source,) = (scratch / "dist").glob("*.whl"), (scratch / "dist").glob("*.tar.gz")
        good &= _run("twine", "twine", "check", "--strict", str(wheel), str(source))
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        if missing := lacking(names):
            print(f"FAILED: the wheel lacks {', '.join(missing)}")
            good = False
        shutil.unpack_archive(source, scratch / "unpacked")
        (unpacked,) = (scratch / "unpacked").iterdir()
        words = ["hatchling", "build", "-t", "wheel", "-d", str(scratch / "again")]
        good &= _run("the wheel again, from the sdist", *words, cwd=unpacked)
        with zipfile.ZipFile(next((scratch / "again").glob("*.whl"))) as archive:
            same = sorted(archive.namelist()) == sorted(names)
        print(f"{'ok' if same else 'FAILED'}: it holds the same files")
        for version in VERSIONS:
            good &= _installed(wheel, version, scratch)
        places = {"UV_TOOL_DIR": str(scratch / "tools"), "UV_TOOL_BIN_DIR": str(scratch / "uv bin")}
        good &= _run(
            "uv tool install", "uv", "tool", "install", "-q", "--python", sys.executable, str(wheel), more=places
        )
        good &= _draws("uv tool", scratch / "uv bin" / "locara-sidecar", scratch)
        places = {"PIPX_HOME": str(scratch / "pipx"), "PIPX_BIN_DIR": str(scratch / "pipx bin")}
        good &= _run("pipx install", "pipx", "install", "--python", sys.executable, str(wheel), more=places)
        good &= _draws("pipx", scratch / "pipx bin" / "locara-sidecar", scratch)
    return 0 if good and same else 1


if __name__ == "__main__":
    sys.exit(main())
