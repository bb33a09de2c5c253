"""The catalogue: one JSON file per model, and the folder that the model is installed in.

The files in ``models/catalogue/`` ship with the package; a host adds its own with ``--catalogue DIR`` (the same format;
``source.path`` may name a folder next to the file that contains the model). ``order`` decides which granted and
installed model is the default. An entry without a folder of its own is installed if it is in Locara's cache
(``store.py``).

No entry names a revision that nobody has seen: if it names none, the commit found by the first download is recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import MAX_REFERENCES
from locara_sidecar.machine import supported
from locara_sidecar.machine.plan import Part
from locara_sidecar.machine.processes.trees import shown
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.models.cache.store import Installed, Store


class Source(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where files come from: a hub repository, or a local folder (``path``, relative to the JSON file;
    ``package`` for the model that ships inside this package).

    :param revision: a published commit, branch or tag; None is ``main``.
    :param files: ``fnmatch`` patterns of the files that belong to the model; ``exclude`` removes some again.
    :param place: the path in the model's tree of a file that has another path in its repository.
    """

    repository: str | None = None
    revision: str | None = None
    files: list[str] = []
    exclude: list[str] = []
    place: dict[str, str] = {}
    path: str | None = None
    package: bool = False


class Sides(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The sizes a model allows, in pixels: each side a multiple of ``multiple_of`` within the limits."""

    minimum: int
    maximum: int
    multiple_of: int
    max_pixels: int


class Defaults(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The defaults of a job; sizes in pixels, ``max_sequence_length`` in T5 or Qwen3 tokens."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    max_sequence_length: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One model of the catalogue.

    :param lookalikes: descriptions, by SHA-256, of other models' files that could be mistaken for this one's and would
        be run with the wrong settings; an import refuses them.
    :param speeds: what ``speed`` may be, with an engine that supports it (``machine/supported.py``); more than
        ``exact`` only for a model made for many steps.
    :param max_references: how many pictures an edit may have, if that is fewer than the family's models can take.
    """

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
    source: Source | list[Source]
    speeds: tuple[Literal["exact", "balanced", "fast"], ...] = ("exact",)
    max_references: Annotated[int, Meta(ge=1, le=MAX_REFERENCES)] | None = None
    lookalikes: dict[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")], str] = {}
    tags: list[str] = []
    download_bytes: Annotated[int, Meta(ge=0)] = 0
    components: list[Part] = []

    @property
    def sources(self) -> list[Source]:
        """The source, or the several repositories that make up the model."""
        return self.source if isinstance(self.source, list) else [self.source]

    @property
    def is_shipped(self) -> bool:
        """Whether the model comes with the sidecar, and is missing only if the sidecar's own files are."""
        return any(source.package for source in self.sources)

    @property
    def edit_modality(self) -> str | None:
        """The modality that ``image.edit`` needs for this model: ``image-text-to-image`` if it follows an instruction,
        ``image-to-image`` if it repaints, None if it does neither.
        """
        kinds = ("image-text-to-image", "image-to-image")
        return next((modality for modality in kinds if modality in self.modalities), None)

    @property
    def references(self) -> int:
        """How many pictures an edit may have; 0 if the model cannot edit."""
        if self.edit_modality is None:
            return 0
        row = supported.FAMILIES.get(self.family)
        most = MAX_REFERENCES if row is None else row.references
        return min(self.max_references or (1 if row is None else most), most)

    @property
    def guidable(self) -> bool:
        """Whether ``guidance`` has an effect: through a negative prompt, or because the model was trained with it as an
        input, as FLUX dev was; a model trained without it has 0 here.
        """
        row = supported.FAMILIES.get(self.family)
        return self.classifier_free_guidance or (self.defaults.guidance > 0 and (row is None or row.guided_by_default))

    def require_runnable(self) -> None:
        """Check that an engine supports the family.

        :raises RpcError: EngineUnavailable if none does.
        """
        if self.family not in RUNNABLE:
            message = f"No engine of this version runs {self.display_name} yet."
            raise RpcError("EngineUnavailable", message, model=self.id, family=self.family)

    @property
    def downloadable(self) -> bool:
        """Whether the model comes from the hub."""
        return all(source.repository and source.files for source in self.sources)


SHIPPED = Path(__file__).parent / "catalogue"
"""The entries that come with the package."""

RUNNABLE = frozenset(supported.FAMILIES)
"""The families that this version's engines can run; others are listed and can be downloaded."""


class CatalogueError(Exception):
    """A catalogue file is unreadable or invalid; the message names it."""


class Catalogue:
    """All known models in order, and which of them have files on this machine."""

    def __init__(
        self, entries: list[tuple[Entry, Path | None]], root: Path | None = None, skipped: tuple[str, ...] = ()
    ) -> None:
        self._entries = {entry.id: entry for entry, _ in sorted(entries, key=lambda pair: (pair[0].order, pair[0].id))}
        self._folders = {entry.id: folder for entry, folder in entries}
        self._root = root
        self.skipped = skipped
        """The host's files that were left out, and why."""
        self._store: Store | None = None

    def __iter__(self) -> Any:
        return iter(self._entries.values())

    def get(self, model_id: str) -> Entry | None:
        """Return the entry with that id, or None."""
        return self._entries.get(model_id)

    def named(self, model_id: str) -> Entry:
        """Return the entry with that id.

        :raises RpcError: ModelNotFound.
        """
        entry = self._entries.get(model_id)
        if entry is None:
            message = f"There is no model {model_id} in the catalogue.{self.note}"
            raise RpcError("ModelNotFound", message, model=model_id)
        return entry

    def with_cache(self, root: Path) -> Catalogue:
        """Return the same catalogue, including what is installed in Locara's cache."""
        return Catalogue([(entry, self._folders[entry.id]) for entry in self._entries.values()], root, self.skipped)

    @property
    def note(self) -> str:
        """A note for errors about a missing model: a host's file may have been left out. Empty if none was."""
        names = ", ".join(Path(words.partition(": ")[0]).name for words in self.skipped)
        return f" Left out, because they cannot be used: {names}." if names else ""

    @property
    def store(self) -> Store | None:
        """Locara's cache, if this catalogue has one."""
        if self._store is None and self._root is not None:
            from locara_sidecar.models.cache.store import Store  # a daemon that draws nothing does not need it

            self._store = Store(self._root)
        return self._store

    def own_folder(self, model_id: str) -> Path | None:
        """Return the folder that the catalogue itself names for a model (it may not exist), or None if it
        belongs in the store.
        """
        return self._folders.get(model_id)

    def folder(self, model_id: str) -> Path | None:
        """Return the installed model's folder (diffusers layout), or None if it is not installed."""
        folder = self._folders.get(model_id)
        if folder is None and self.store is not None and model_id in self._entries:
            installed = self.store.find(model_id)
            folder = None if installed is None else installed.folder
        return folder if folder is not None and _is_model(folder) else None

    def folders(self, installed: Mapping[str, Installed]) -> dict[str, Path]:
        """Return the folders of all installed models, by model id.

        :param installed: what is in the store, by model id.
        """
        found: dict[str, Path] = {}
        for model_id in self._entries:
            folder = self._folders.get(model_id)
            if folder is None and model_id in installed:
                folder = installed[model_id].folder
            if folder is not None and _is_model(folder):
                found[model_id] = folder
        return found


def _is_model(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def load(extra: Path | None = None) -> Catalogue:
    """Read the package's catalogue and then a host's own folder. An invalid file of the host's is left out, and
    reported in :attr:`Catalogue.skipped`: it must not take the other models down with it.

    :raises CatalogueError: if there is no such folder, or its name is not UTF-8.
    """
    package = Path(__file__).parent
    pairs = [_read(file, package) for file in sorted(SHIPPED.glob("*.json"))]
    skipped: list[str] = []
    if extra is not None:
        if not extra.is_dir():
            raise CatalogueError(f"{extra} is not a folder")
        if (told := shown(str(extra.absolute()))) != str(extra.absolute()):  # no line to the engine can hold it
            raise CatalogueError(f"the name of the folder {told} is not valid UTF-8")
        seen = {entry.id for entry, _ in pairs}
        for file in sorted(extra.glob("*.json")):
            try:
                entry, folder = _read(file, extra)
                if entry.id in seen:
                    raise CatalogueError(f"{file}: there is already a model {entry.id}")
            except CatalogueError as error:
                skipped.append(str(error))
                continue
            seen.add(entry.id)
            pairs.append((entry, folder))
    return Catalogue(pairs, skipped=tuple(skipped))


def _read(file: Path, base: Path) -> tuple[Entry, Path | None]:
    try:
        entry = msgspec.json.decode(text_files.read(file), type=Entry)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CatalogueError(f"{file}: {error}") from error
    if fault := _beyond_its_family(entry):
        raise CatalogueError(f"{file}: {fault}")
    first = entry.sources[0] if entry.sources else Source()
    if first.package:
        return entry, Path(__file__).parent / entry.id
    return entry, None if first.path is None else (base / first.path).resolve()


def _beyond_its_family(entry: Entry) -> str:
    """Return a promise of an entry that no engine keeps for a model of its family; empty if there is none."""
    row = supported.FAMILIES.get(entry.family)
    if row is None:
        return ""
    if others := [modality for modality in entry.modalities if modality not in row.modalities]:
        return f"modalities has {others[0]!r}; those of family {row.name} are {', '.join(sorted(row.modalities))}"
    if entry.classifier_free_guidance and not row.negative_prompt:
        return f"classifierFreeGuidance is true, but family {row.name} is run without it"
    if entry.defaults.guidance > 1 and not (row.negative_prompt or row.embeds_guidance):
        return f"defaults.guidance is {entry.defaults.guidance:g}, but family {row.name} is run without guidance"
    return ""
