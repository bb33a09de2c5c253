"""``python dependencies.py``: checks that the crate may be shipped with its dependencies, and that its ``rust-version``
is true.

Fails for a licence that is not listed here, for packages from several sources, and for a ``rust-version`` below what a
dependency of the crate itself (not of its tests) requires.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unlicense", "Unicode-3.0"}
"""Licences under which a closed-source app may ship a package that requires nothing but its notice."""


def permitted(expression: str) -> bool:
    """Whether an SPDX expression can be satisfied with the allowed licences alone.

    :raises ValueError: if it is not a valid expression.
    """
    spaced = expression.replace("/", " OR ")
    words = re.findall(r"[()]|\bOR\b|\bAND\b|[\w.+-]+(?: WITH [\w.+-]+)?", spaced)
    met = _any(words)
    if words:
        raise ValueError(f"{expression!r} is no licence expression")
    return met


def _any(words: list[str]) -> bool:
    """Parse ``a OR b …`` from the front."""
    met = _all(words)
    while words and words[0] == "OR":
        words.pop(0)
        met |= _all(words)
    return met


def _all(words: list[str]) -> bool:
    """Parse ``a AND b …`` from the front."""
    met = _one(words)
    while words and words[0] == "AND":
        words.pop(0)
        met &= _one(words)
    return met


def _one(words: list[str]) -> bool:
    if not words:
        return False
    word = words.pop(0)
    if word != "(":
        return word in ALLOWED
    met = _any(words)
    if words:
        words.pop(0)  # the closing parenthesis
    return met


def version(text: str | None) -> tuple[int, ...]:
    """Return a ``rust-version`` that can be compared; a package without one requires nothing."""
    parts = [int(part) for part in (text or "0").split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def shipped(metadata: dict[str, Any]) -> set[str]:
    """Return the ids of what the crate itself needs, on any system, without what only its tests need."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found: set[str] = set()
    waiting: list[str] = [metadata["resolve"]["root"]]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [
                dependency["pkg"]
                for dependency in nodes[one]["deps"]
                if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
            ]
    return found


def problems(metadata: dict[str, Any]) -> list[str]:
    """Return a sentence for each problem."""
    root: str = metadata["resolve"]["root"]
    packages: dict[str, dict[str, Any]] = {package["id"]: package for package in metadata["packages"]}
    ours = packages[root]["rust_version"]
    found: list[str] = []
    sources = {str(package["source"]) for package in packages.values() if package["id"] != root}
    if len(sources) > 1:
        found.append(f"packages come from {' and '.join(sorted(sources))}")
    for package in packages.values():
        name = f"{package['name']} {package['version']}"
        if not permitted(package["license"] or ""):
            found.append(f"{name} has the licence {package['license']}, which is not allowed")
    newest = max((packages[one] for one in shipped(metadata) - {root}), key=lambda one: version(one["rust_version"]))
    if version(newest["rust_version"]) > version(ours):
        found.append(f"{newest['name']} needs Rust {newest['rust_version']}, and Cargo.toml promises {ours}")
    return found


def main() -> int:
    """Run the check.

    :returns: 0, or 1 if something is wrong.
    """
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    told = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    found = problems(json.loads(told.stdout))
    sys.stderr.writelines(f"{sentence}\n" for sentence in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
