"""``make bundle-lock``: writes the locks of the three kinds of bundle, and of the tools, for every platform at once."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_HEAD = "# Made by make bundle-lock, from pyproject.toml and packaging/constraints.txt; for every platform.\n"
_TOOLS_HEAD = (
    "# What make bundle and make test-bundle run, none of it in a bundle. Made by make bundle-lock from tools.in.\n"
)


def main() -> None:
    """Resolve and write the locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", required=True)
    uv = parser.parse_args().uv
    for engine in ("mlx", "torch", "none"):
        extra = [] if engine == "none" else ["--extra", engine]
        words = ["pyproject.toml", *extra, "-c", "packaging/constraints.txt"]
        (HERE / "lock" / f"{engine}.txt").write_text(_HEAD + _resolved(uv, *words))
    (HERE / "tools.txt").write_text(_TOOLS_HEAD + _resolved(uv, str(HERE / "tools.in")))


def _resolved(uv: str, *words: str) -> str:
    fixed = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.11", "--quiet"]
    return subprocess.run(
        [uv, "pip", "compile", *words, *fixed], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()
