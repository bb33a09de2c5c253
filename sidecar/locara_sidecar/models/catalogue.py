"""The catalogue: one JSON file a model, and the folder that it is installed in.

The files in ``models/catalogue/`` ship with the package; a host adds its own with ``--catalogue DIR``
(the same form; ``source.path`` may name a folder beside the file that holds the model). Order matters:
``order`` decides which granted and installed model is the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Source(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where the files come from: a hub repository, or a local folder (``path``, relative to the JSON file;
    ``package`` for the model that ships inside this package)."""

    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    package: bool = False


class Sides(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The sizes a model allows, in pixels: each side a multiple of ``multiple_of`` within the bounds."""

    minimum: int
    maximum: int
    multiple_of: int
    max_pixels: int


class Defaults(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    max_sequence_length: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One model of the catalogue."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]
    version: str
    order: int
    display_name: str
    description: str
    license: str
    license_url: str
    commercial_use: bool
    gated: bool
    modalities: list[str]
    family: str
    parameters: int
    classifier_free_guidance: bool
    schedulers: list[str]
    defaults: Defaults
    sides: Sides
    source: Source
    tags: list[str] = []


class CatalogueError(Exception):
    """A catalogue file cannot be read or is not of the form; the message names it."""


class Catalogue:
    """All known models in order, and which of them have files on this machine."""

    def __init__(self, entries: list[tuple[Entry, Path | None]]) -> None:
        self._entries = {entry.id: entry for entry, _ in sorted(entries, key=lambda pair: (pair[0].order, pair[0].id))}
        self._folders = {entry.id: folder for entry, folder in entries}

    def __iter__(self) -> Any:
        return iter(self._entries.values())

    def get(self, model_id: str) -> Entry | None:
        """The entry of that id, or None."""
        return self._entries.get(model_id)

    def folder(self, model_id: str) -> Path | None:
        """The installed model's folder (diffusers layout), or None where it is not installed."""
        folder = self._folders.get(model_id)
        return folder if folder is not None and (folder / "model_index.json").is_file() else None


def load(extra: Path | None = None) -> Catalogue:
    """Read the package's catalogue and, after it, a host's own folder.

    :raises CatalogueError: naming the file, when one cannot be read or two share an id.
    """
    package = Path(__file__).parent
    pairs = [_read(file, package) for file in sorted((package / "catalogue").glob("*.json"))]
    if extra is not None:
        if not extra.is_dir():
            raise CatalogueError(f"{extra} is not a folder")
        pairs += [_read(file, extra) for file in sorted(extra.glob("*.json"))]
    seen: set[str] = set()
    for entry, _ in pairs:
        if entry.id in seen:
            raise CatalogueError(f"the catalogue has two models named {entry.id}")
        seen.add(entry.id)
    return Catalogue(pairs)


def _read(file: Path, base: Path) -> tuple[Entry, Path | None]:
    try:
        entry = msgspec.json.decode(file.read_bytes(), type=Entry)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{file}: {error}") from error
    if entry.source.package:
        return entry, Path(__file__).parent / entry.id
    return entry, None if entry.source.path is None else (base / entry.source.path).resolve()
