"""The Mach-O files in a folder, recognized by content, not by name; all of them must be signed."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_THIN = {0xFEEDFACE: ">", 0xFEEDFACF: ">", 0xCEFAEDFE: "<", 0xCFFAEDFE: "<"}
_FAT = frozenset({0xCAFEBABE, 0xCAFEBABF})
_MOST_ARCHITECTURES = 30  # a Java class file begins like a universal binary, with its version in place of the count
_PROGRAM = 2  # MH_EXECUTE
_CODE_SIGNATURE = 0x1D  # LC_CODE_SIGNATURE
_WIDE = frozenset({0xFEEDFACF, 0xCFFAEDFE})


def kind(path: Path) -> str | None:
    """Return ``program`` or ``library`` (which includes bundles and object files); None if it is not a Mach-O file."""
    with path.open("rb") as file:
        head = file.read(4096)
        if len(head) >= 20 and int.from_bytes(head[:4], "big") in _FAT:
            if not 0 < int.from_bytes(head[4:8], "big") < _MOST_ARCHITECTURES:
                return None
            wide = head[3] == 0xBF
            (at,) = struct.unpack_from(">Q" if wide else ">I", head, 16)  # the offset of the first slice
            file.seek(at)
            head = file.read(4096)
    return _thin_kind(head)


def _thin_kind(head: bytes) -> str | None:
    order = _THIN.get(int.from_bytes(head[:4], "big")) if len(head) >= 16 else None
    if order is None:
        return None
    (found,) = struct.unpack_from(f"{order}I", head, 12)
    return "program" if found == _PROGRAM else "library"


def has_signature(path: Path) -> bool:
    """Whether a thin Mach-O file has a place for a signature; ``codesign`` says whose it is and whether it is valid.

    Wheels for Apple silicon have an *ad hoc* signature, so this does not prove that we signed the file.
    """
    data = path.read_bytes()
    order = _THIN.get(int.from_bytes(data[:4], "big"))
    if order is None:
        return False
    wide = int.from_bytes(data[:4], "big") in _WIDE
    (count,) = struct.unpack_from(f"{order}I", data, 16)
    at = 32 if wide else 28
    for _ in range(count):
        command, size = struct.unpack_from(f"{order}II", data, at)
        if command == _CODE_SIGNATURE:
            return True
        if size < 8:
            return False
        at += size
    return False


def inside_out(root: Path) -> list[tuple[Path, str]]:
    """Return every Mach-O file below ``root`` with its kind, in signing order: deeper ones before those around them,
    libraries before programs."""
    found: list[tuple[Path, str]] = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = root.joinpath(folder, name)
            if not path.is_symlink() and (what := kind(path)) is not None:
                found.append((path, what))
    return sorted(found, key=lambda each: (each[1] == "program", -len(each[0].parts), str(each[0])))
