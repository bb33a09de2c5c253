"""Which model a call gets: what the gate grants, what the catalogue knows, what this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from locara_protocol.errors import RpcError
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import Grant, Source, Wanted, authorize
from locara_sidecar.models.catalogue import RUNNABLE, Catalogue, Entry

if TYPE_CHECKING:
    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.engine.frames import ModelSpec, PreparedForm


class ModelChoice:
    """The catalogue as this session may use it.

    :param engine: the name of this daemon's engine; the fake one needs no weights, so that with it every model
        counts as installed.
    :param policy: gives the session's policy as it is now.
    :param record: writes a decision of the gate down.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: str,
        policy: Callable[[], Policy],
        record: Callable[[Call, Wanted, Grant | RpcError], None],
    ) -> None:
        self._catalogue = catalogue
        self.engine = engine
        self._policy = policy
        self._record = record
        self._proven: set[str] = set()  # models whose pinned digest was found to hold

    @property
    def catalogue(self) -> Catalogue:
        """All models, granted or not."""
        return self._catalogue

    @property
    def fake(self) -> bool:
        """Whether models have no files here."""
        return self.engine == "fake"

    def get(self, model_id: str) -> Entry | None:
        """The catalogue's entry of that id, or None."""
        return self._catalogue.get(model_id)

    def folder(self, model_id: str) -> Path | None:
        """The installed model's folder, ``Path()`` where it has no files, or None where it is not installed."""
        folder = self._catalogue.folder(model_id)
        return Path() if folder is None and self.fake and self._catalogue.get(model_id) else folder

    def files(self, model_id: str) -> Path | None:
        """The folder that the engine loads the model from; None with the fake one, which loads nothing."""
        return None if self.fake else self.folder(model_id)

    def wanted(
        self,
        asked: str | None,
        modality: Callable[[Entry], str | None],
        *,
        root: str | None = None,
        sources: tuple[Source, ...] = (),
    ) -> Wanted:
        """What a call asks the gate for.

        :param asked: the model that the call names; None for any that can do it.
        :param modality: what a model takes for it; None for one that cannot.
        """
        found = {entry.id: needed for entry in self._catalogue if (needed := modality(entry)) is not None}
        return Wanted(
            models=(asked,) if asked else tuple(found),
            modalities=found,
            digests=_Digests(self.folder),
            root=root,
            sources=sources,
            installed=tuple(entry.id for entry in self._catalogue if self.folder(entry.id) is not None),
        )

    def authorize(self, call: Call, wanted: Wanted) -> Grant:
        """Ask the gate, and write down what it decides.

        :raises RpcError: CapabilityDenied or InvalidParams.
        """
        try:
            grant = authorize(self._policy(), METHODS[call.method], wanted)
        except RpcError as denied:
            self._record(call, wanted, denied)
            raise
        self._record(call, wanted, grant)
        return grant

    def choose(self, models: tuple[str, ...], *, explicit: bool) -> Entry:
        """The first of the granted models that is installed.

        :param explicit: whether the call named it.
        :raises RpcError: ModelNotFound or ModelNotInstalled.
        """
        entries = [entry for model in models if (entry := self._catalogue.get(model)) is not None]
        if not entries:
            known = ", ".join(entry.id for entry in self._catalogue)
            raise RpcError(
                "ModelNotFound", f"There is no model {models[0]} in the catalogue; it has {known}.", model=models[0]
            )
        installed = [entry for entry in entries if self.folder(entry.id) is not None]
        if not installed:
            which = entries[0].id
            advice = "" if explicit else " None of the granted models is."
            message = f"The model {which} is not installed on this machine.{advice}"
            raise RpcError("ModelNotInstalled", message, model=which)
        # a model that no engine runs is the default only where there is no other
        return next((entry for entry in installed if entry.family in RUNNABLE), installed[0])

    def check_engine(self, asked: str | None, entry: Entry) -> None:
        """:raises RpcError: EngineUnavailable where this daemon's engine is another, or does not run the family."""
        if self.fake:
            return
        if asked not in (None, "auto", self.engine):
            message = f"This sidecar runs the {self.engine} engine, not {asked}."
            raise RpcError("EngineUnavailable", message, engine=asked)
        if entry.family not in RUNNABLE:
            message = f"No engine of this version runs {entry.display_name} yet."
            raise RpcError("EngineUnavailable", message, model=entry.id, family=entry.family)

    def named(self, call: Call, model: str, engine: str | None) -> tuple[Entry, Grant]:
        """The model that a call about one model names, once all has been checked, in the contract's order.

        :param engine: the engine that the call names.
        :raises RpcError: as :meth:`authorize`, :meth:`choose` and :meth:`check_engine`.
        """
        grant = self.authorize(call, self.wanted(model, lambda entry: None))
        entry = self.choose(grant.models, explicit=True)
        self.check_engine(engine, entry)
        return entry, grant

    async def digest(self, call: Call, model_id: str, read: Callable[[int], object]) -> str:
        """The installed model's digest, held against the manifest's if that pins one; empty where it has no files.

        The gate was asked when the call came, but a large folder of the host's takes minutes to hash, and nobody was
        to wait for that.

        :param read: told how many bytes were hashed, now and then, in another thread; what it raises ends the hashing.

        :raises RpcError: ModelIncomplete; CapabilityDenied for another model than the manifest pins.
        """
        pinned = self._pinned(model_id)
        folder = self.folder(model_id)
        if not folder or not folder.parts or (self.fake and not pinned):
            return ""
        from locara_sidecar.models.digest import model_digest

        try:
            digest = await anyio.to_thread.run_sync(model_digest, folder, read)
        except OSError as error:
            raise RpcError("ModelIncomplete", f"A file of {model_id} cannot be read.", model=model_id) from error
        if pinned:
            wanted = Wanted(models=(model_id,), digests={model_id: digest})
            try:
                authorize(self._policy(), METHODS["models.get"], wanted)
            except RpcError as denied:
                self._record(call, wanted, denied)
                raise
            self._proven.add(model_id)
        return digest

    def _pinned(self, model_id: str) -> bool:
        manifest = self._policy().manifest
        declared = [] if manifest is None else [entry.digest for entry in manifest.models if entry.id == model_id]
        return bool(declared) and None not in declared

    def forms(self, model: ModelSpec) -> list[PreparedForm]:
        """The prepared forms of this very model that its job may load."""
        store = self._catalogue.store
        if store is None or self.fake or model.quantization == "none":
            return []
        from locara_sidecar.models.forms import forms_for

        return forms_for(store, model, self.engine)

    def readable(self) -> list[str]:
        """The folders of granted and installed models, which the engine may read.

        A pinned model counts once a call has found that its digest holds: until then it is not granted, and
        hashing it here would take long.
        """
        manifest = self._policy().manifest
        declared = () if manifest is None else manifest.models
        granted = {model.id for model in declared if model.digest is None or model.id in self._proven}
        folders = [folder for entry in self._catalogue if entry.id in granted and (folder := self.folder(entry.id))]
        return [str(folder) for folder in (*folders, *self._forms_of(folders)) if folder.is_absolute()]

    def _forms_of(self, folders: list[Path]) -> list[Path]:
        """What was prepared of the models in these folders of the store's, so that using it needs no other engine."""
        store = self._catalogue.store
        if store is None or self.fake:
            return []
        from locara_sidecar.models.forms import usable

        digests = {f"sha256:{folder.name}" for folder in folders if folder.parent == store.models}
        return [
            entry.folder
            for entry in usable(store)
            if (made := entry.derived_from) and made.engine == self.engine and made.digest in digests
        ]


class _Digests(Mapping[str, str]):
    """Installed models' digests, as far as they are known without reading the models."""

    def __init__(self, folder: Callable[[str], Path | None]) -> None:
        self._folder = folder

    def __getitem__(self, model_id: str) -> str:
        folder = self._folder(model_id)
        if not folder or not folder.parts:
            raise KeyError(model_id)
        from locara_sidecar.models.digest import known_digest

        try:
            digest = known_digest(folder)
        except OSError as error:
            raise KeyError(model_id) from error
        if digest is None:
            raise KeyError(model_id)
        return digest

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
