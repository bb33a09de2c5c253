"""The licences of everything in a bundle, in one folder, with a subfolder for each component."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.sbom import debian_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundle.layout import Layout
    from bundle.sbom import Component

_NAMES = re.compile(r"(licen[cs]e|copying|notice|copyright|third.?party)", re.IGNORECASE)
_CODE = frozenset({".py", ".pyi", ".pyc", ".so"})
_APACHE = frozenset({"Apache-2.0", "Apache 2.0", "Apache License 2.0", "Apache Software License"})
"""Names that packages without a licence file use for the licence that is also ours."""


def gather(site: Path) -> None:
    """Copy licences that a package keeps next to its code into its ``*.dist-info`` if that has none. The installer's
    record says which files belong to the package, so call this before ``packages.prune``.
    """
    for record in sorted(site.glob("*.dist-info/RECORD")):
        if any(_licences(record.parent)):
            continue
        with record.open(encoding="utf-8", newline="") as lines:
            names = [row[0] for row in csv.reader(lines) if row]
        for path in (site / name for name in sorted(names)):
            if _NAMES.search(path.name) and path.suffix not in _CODE and path.is_file():
                folder = record.parent / "licenses"
                folder.mkdir(exist_ok=True)
                shutil.copyfile(path, _free(folder, path.name))


def collect(layout: Layout, contents: list[Component], root: Path, python: Path) -> None:
    """Copy all licences into ``LICENSES/``, with an index.

    :param python: where the interpreter came from, which has its licence next to the standard library.
    :raises RuntimeError: naming the components without a licence.
    """
    lines: list[str] = []
    without: list[str] = []
    for each in contents:
        folder = layout.licences / f"{each.name}-{each.version}".rstrip("-")
        files = list(_files(each, layout, root, python))
        for path in files:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, _free(folder, path.name))
        if not files:
            without.append(f"{each.name} ({each.licence or 'licence unknown'})")
        lines.append(f"{each.name} {each.version}: {each.licence or 'see the files'}")
    if without:
        raise RuntimeError(f"no licence was found for {', '.join(without)}")
    (layout.licences / "INDEX.txt").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def _files(each: Component, layout: Layout, root: Path, python: Path) -> Iterator[Path]:
    if each.name == "CPython":
        yield from (path for path in (python / "LICENSE", layout.library / "LICENSE.txt") if path.exists())
    elif each.name in ("pocket", "locara-sidecar"):
        yield root / "LICENSE"
        if each.name == "pocket":
            yield layout.site / "locara_sidecar" / "models" / "pocket" / "THIRD_PARTY_NOTICES"
    elif each.notes is not None and each.notes.is_dir():
        yield from _licences(each.notes) or ([root / "LICENSE"] if each.licence in _APACHE else [])
    elif each.notes is not None:
        package, _ = debian_package(each.notes)
        path = Path("/usr/share/doc", package, "copyright")
        if package and path.exists():
            yield path


def _licences(notes: Path) -> list[Path]:
    """Return the licences in a ``*.dist-info`` folder: by their names, and by the folders where they belong."""
    found = [path for path in sorted(notes.rglob("*")) if path.is_file() and _NAMES.search(path.name)]
    return found + [path for path in sorted((notes / "licenses").rglob("*")) if path.is_file() and path not in found]


def _free(folder: Path, name: str) -> Path:
    """Return a name that is free there: two folders of a package may each have a LICENSE."""
    path, count = folder / name, 1
    while path.exists():
        count += 1
        path = folder / f"{name}.{count}"
    return path
