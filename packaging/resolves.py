"""Whether the extras can be installed on the Macs that they are for, and stay away where there is nothing to install.

Asks the package index what it would take (``uv pip compile``; nothing is installed or built). Without an index it says
so and ends with 0: a machine without a network learns nothing here. NOT a test on a Mac: wheels may be there and fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST = "14.0"
"""macOS that MLX's wheels need at least."""
_UNREACHABLE = ("failed to fetch", "client error", "dns error", "error sending request", "network", "timed out")


class Case(NamedTuple):
    """A kind of Mac, the extras that are asked for, and whether MLX must be among what is taken."""

    platform: str
    extras: tuple[str, ...]
    mlx: bool


CASES = (
    Case("aarch64-apple-darwin", ("mlx", "torch"), mlx=True),
    Case("x86_64-apple-darwin", ("mlx",), mlx=False),  # no wheel for Intel: the extra must not ask for one
)


def ask(case: Case, python: str) -> tuple[list[str] | None, str]:
    """The packages that would be taken, or None and what uv said."""
    extras = [word for extra in case.extras for word in ("--extra", extra)]
    words = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    words += ["--python-platform", case.platform, "--python-version", python, *extras, str(ROOT / "pyproject.toml")]
    uv = Path(sys.executable).with_name("uv")
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": OLDEST}
    done = subprocess.run([str(uv), *words[1:]], capture_output=True, text=True, env=env, check=False)
    return (done.stdout.split(), "") if done.returncode == 0 else (None, done.stderr)


def is_unreachable(said: str) -> bool:
    """Whether uv could not ask at all."""
    return any(words in said.lower() for words in _UNREACHABLE)


def verdict(case: Case, packages: list[str]) -> bool:
    """Whether what would be taken is what must be."""
    return any(name.startswith("mlx==") for name in packages) is case.mlx


def main() -> int:
    """0 where every case is as it must be, or nothing could be asked."""
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
