"""Recognizes and verifies the folder that an app ships: are all files there, and are they the ones that were built?

``SHA256SUMS`` lists every file but itself, in the format of ``sha256sum``, so that other tools can check it. This
detects damage, not malice: whoever can change a file can change the list. ``bundle.json`` describes the folder.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

SUMS = "SHA256SUMS"
FACTS = "bundle.json"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class Verdict(msgspec.Struct, frozen=True, rename="camel"):
    """The differences from the list: paths below the folder, with ``/``, sorted.

    :param files: the number of files in the list.
    """

    files: int
    altered: list[str]
    missing: list[str]
    extra: list[str]
    not_executable: list[str]

    @property
    def sound(self) -> bool:
        """Whether nothing differs."""
        return not (self.altered or self.missing or self.extra or self.not_executable)


def folder() -> Path | None:
    """Return the bundle that this interpreter is in, or None for any other kind of installation."""
    above = Path(sys.prefix).parent
    # os.path: a confined engine may not be allowed to look, which is not an error here
    return above if os.path.isfile(above / SUMS) and os.path.isfile(above / FACTS) else None


def how_to_have(engine: str, what: str = "it") -> str:
    """Say how to get an engine that is not installed. A bundle has no pip, and its user did not build it.

    :param what: what the sentence calls the engine.
    """
    if folder() is None:
        return f"install {what} with: pip install 'locara-sidecar[{engine}]'"
    return f"this folder was built without {what}; its app must ship one of: make bundle ENGINE={engine}"


def write(root: Path) -> None:
    """Write the list for the folder as it is now. Anything that changes a file later, such as signing, must do this
    again.
    """
    lines = [f"{_sha256(root / name)}  {name}\n" for name in sorted(_names(root))]
    (root / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def verify(root: Path) -> Verdict:
    """Read and hash every file (a second or two for 200 MB).

    :raises OSError: if the list or a file cannot be read.
    :raises ValueError: if the list or ``bundle.json`` is invalid.
    """
    listed: dict[str, str] = {}
    for line in (root / SUMS).read_text(encoding="utf-8").splitlines():
        if (found := _LINE.fullmatch(line)) is None:
            raise ValueError(f"{SUMS} has a line of another form: {line[:100]!r}")
        listed[found[2]] = found[1]
    names = _names(root)
    altered = [name for name in sorted(names & listed.keys()) if _sha256(root / name) != listed[name]]
    return Verdict(
        files=len(listed),
        altered=altered,
        missing=sorted(listed.keys() - names),
        extra=sorted(names - listed.keys()),
        not_executable=[name for name in _programs(root) if name in names and not os.access(root / name, os.X_OK)],
    )


def _programs(root: Path) -> list[str]:
    try:
        facts: dict[str, Any] = msgspec.json.decode((root / FACTS).read_bytes(), type=dict[str, Any])
        return sorted({str(facts["command"][0]), str(facts["commandWithoutShell"][0])})
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, FileNotFoundError):
        return []  # it is altered or missing; the list shows that


def _names(root: Path) -> set[str]:
    """Return the paths of everything except folders; links count as files."""
    found: set[str] = set()
    for above, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(above, name))]
        found.update(Path(above, name).relative_to(root).as_posix() for name in (*names, *links))
    return found - {SUMS}


def _sha256(path: Path) -> str:
    import hashlib  # every daemon imports this module, and few hash anything

    if path.is_symlink() or not path.is_file():
        return "no file"  # a link in place of a file is another file
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
