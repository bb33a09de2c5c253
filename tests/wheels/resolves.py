"""Checks that the extras can be installed on the Macs that they are for, and install nothing where they cannot work.

Asks the package index what would be installed (``uv pip compile``; nothing is installed or built). Without access to an
index it says so and exits with 0: a machine without a network learns nothing here. This is NOT a test on a Mac: wheels
may exist and still fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST = "14.0"
"""The oldest macOS that MLX's wheels support."""
_UNREACHABLE = ("failed to fetch", "client error", "dns error", "error sending request", "network", "timed out")


class Case(NamedTuple):
    """A kind of Mac, the requested extras, and whether MLX must be among the packages."""

    platform: str
    extras: tuple[str, ...]
    mlx: bool


CASES = (
    Case("aarch64-apple-darwin", ("mlx", "torch"), mlx=True),
    Case("x86_64-apple-darwin", ("mlx",), mlx=False),  # no wheel for Intel: the extra must not ask for one
)


def ask(case: Case, python: str) -> tuple[list[str] | None, str]:
    """Return the packages that would be installed, or None, and uv's output."""
    extras = [word for extra in case.extras for word in ("--extra", extra)]
    words = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    words += ["--python-platform", case.platform, "--python-version", python, *extras, str(ROOT / "pyproject.toml")]
    uv = Path(sys.executable).with_name("uv")
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": OLDEST}
    done = subprocess.run([str(uv), *words[1:]], capture_output=True, text=True, env=env, check=False)
    return (done.stdout.split(), "") if done.returncode == 0 else (None, done.stderr)


def is_unreachable(said: str) -> bool:
    """Return whether uv could not reach the index at all."""
    return any(words in said.lower() for words in _UNREACHABLE)


def verdict(case: Case, packages: list[str]) -> bool:
    """Return whether the packages are as required."""
    return any(name.startswith("mlx==") for name in packages) is case.mlx


def main() -> int:
    """Return 0 if every case is as required, or if nothing could be asked."""
    failed = False
    for case in CASES:
        for python in PYTHONS:
            packages, said = ask(case, python)
            if packages is None and is_unreachable(said):
                print(f"NOT CHECKED: the package index cannot be reached from here ({said.strip().splitlines()[-1]})")
                return 0
            good = packages is not None and verdict(case, packages)
            failed |= not good
            print(f"{'yes' if good else 'NO '}  {case.platform}  Python {python}  {'+'.join(case.extras)}")
            if packages is None:
                print(said)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
