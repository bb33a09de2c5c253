"""The session's gate: what a call may use, which models are installed, and which one the call gets.

The rules are in :mod:`locara_sidecar.capability.authorize`; this module alone collects the facts they are applied to.
Only :meth:`Gate.look` and :meth:`Gate.digest` access the disk, as their docstrings say.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from locara_protocol.errors import RpcError
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import MANAGEMENT, AccessRequest, Grant, Picked, Source, authorize
from locara_sidecar.daemon.access import inventory
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.models.catalogue import RUNNABLE, Catalogue, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.access.inventory import Inventory
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.ipc.frames import ModelSpec, PreparedForm

_LOOKS = 3


class Gate:
    """The gate of one session.

    :param engine: the name of this daemon's engine; the fake one needs no weights, so with it every model counts as
        installed.
    :param policy: returns the session's current policy.
    :param record: records a decision.
    :param prefer_float16: whether the engine uses float16 where a GPU has no bfloat16.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: str,
        policy: Callable[[], Policy],
        record: Callable[[Call, AccessRequest, Grant | RpcError], None],
        *,
        prefer_float16: bool = False,
    ) -> None:
        self.catalogue = catalogue
        self.engine = engine
        self.prefer_float16 = prefer_float16
        self._policy = policy
        self._record = record
        self._proven: set[str] = set()  # models whose pinned digest was verified
        self._lock = threading.Lock()
        self._looks = 0
        self._seen: tuple[int, Inventory] | None = None

    @property
    def fake(self) -> bool:
        """Whether models have no files here."""
        return self.engine == "fake"

    # --- what is installed ---------------------------------------------------------------

    def look(self) -> None:
        """Look at the disk. Everything else here relies on what is found, until the next look.

        Blocks, so call it off the event loop. When looks overlap, the one that began last wins. A look during which an
        update replaced the installation, and the models in it, is repeated.
        """
        with self._lock:
            self._looks += 1
            number = self._looks
        found = self._take()
        with self._lock:
            if self._seen is None or self._seen[0] < number:
                self._seen = number, found

    def _take(self) -> Inventory:
        for left in reversed(range(_LOOKS)):
            before = program.find()
            found = inventory.take(self.catalogue, self._pinned(), fake=self.fake)
            if not left or program.find(wait=False) == before:
                return found
        raise AssertionError("the last look returns")

    @property
    def _inventory(self) -> Inventory:
        if self._seen is None:  # without a look, a model would seem to have no digest
            raise RuntimeError("the installed models have not been looked up")
        return self._seen[1]

    def folder(self, model_id: str) -> Path | None:
        """Return the installed model's folder, ``Path()`` if it needs none, or None if it is not installed."""
        folder = self._inventory.folders.get(model_id)
        return Path() if folder is None and self.fake and self.catalogue.get(model_id) else folder

    def files(self, model_id: str) -> Path | None:
        """Return the installed model's own folder, whether or not the engine needs it; None if it has none."""
        return self._inventory.folders.get(model_id)

    def forms(self, model: ModelSpec) -> list[PreparedForm]:
        """Return the prepared forms of this exact model that its job may load."""
        if self.fake or model.quantization == "none":
            return []
        from locara_sidecar.models.forms import forms_for

        return forms_for(self._inventory.forms, model, self.engine)

    def readable(self) -> list[str]:
        """Return the folders that the engine may read: those of granted, installed models and of their prepared forms.

        A pinned model is included once a call has verified its digest: until then it is not granted, and hashing it
        here would take long.
        """
        manifest = self._policy().manifest
        declared = () if manifest is None else manifest.models
        granted = {model.id for model in declared} - (self._pinned() - self._proven)
        folders = [
            folder for entry in self.catalogue if entry.id in granted and (folder := self.folder(entry.id)) is not None
        ]
        return [str(folder) for folder in (*folders, *self._forms_of(folders)) if folder.is_absolute()]

    def _forms_of(self, folders: list[Path]) -> list[Path]:
        """Return the prepared forms of the models in these folders of the store, so that using one needs no new
        engine.
        """
        store = self.catalogue.store
        if store is None or self.fake:
            return []
        digests = {f"sha256:{folder.name}" for folder in folders if folder.parent == store.models}
        return [
            entry.folder
            for entry in self._inventory.forms
            if (made := entry.derived_from) and made.engine == self.engine and made.digest in digests
        ]

    # --- what is granted -----------------------------------------------------------------

    def wanted(
        self,
        asked: str | None,
        modality: Callable[[Entry], str | None],
        *,
        root: str | None = None,
        sources: tuple[Source, ...] = (),
        picked: tuple[Picked, ...] = (),
    ) -> AccessRequest:
        """Build the request that a call which uses models makes to the gate.

        :param asked: the model that the call names; None for any suitable one.
        :param modality: the modality that a model needs for the call; None for a model that cannot do it.
        """
        named = self.catalogue.get(asked) if asked else None
        entries = self.catalogue if not asked else () if named is None else (named,)
        found = {entry.id: needed for entry in entries if (needed := modality(entry)) is not None}
        return AccessRequest(
            models=(asked,) if asked else tuple(found),
            modalities=found,
            digests=self._inventory.digests,
            root=root,
            sources=sources,
            picked=picked,
            installed=self._inventory.expected,
        )

    def authorize(self, call: Call, wanted: AccessRequest) -> Grant:
        """Ask the gate, and record its decision.

        :raises RpcError: CapabilityDenied or InvalidParams.
        """
        try:
            grant = authorize(self._policy(), METHODS[call.method], wanted)
        except RpcError as denied:
            self._record(call, wanted, denied)
            raise
        self._record(call, wanted, grant)
        return grant

    def about(self, call: Call, model: str | None) -> tuple[Entry | None, Grant]:
        """Authorize a call about one model, installed or not, or about none; for that no look is needed.

        :raises RpcError: as :meth:`authorize`; ModelNotFound.
        """
        if model is None:
            return None, self.authorize(call, AccessRequest())
        grant = self.authorize(call, self.wanted(model, lambda _: None))
        return self.catalogue.named(model), grant

    def named(self, call: Call, model: str, engine: str | None) -> tuple[Entry, Grant]:
        """Return the installed model that a call names, after all checks, in the contract's order.

        :param engine: the engine that the call names.
        :raises RpcError: as :meth:`authorize`, :meth:`choose` and :meth:`check_engine`.
        """
        grant = self.authorize(call, self.wanted(model, lambda _: None))
        entry = self.choose(grant.models, explicit=True)
        self.check_engine(engine, entry)
        return entry, grant

    def choose(self, models: tuple[str, ...], *, explicit: bool) -> Entry:
        """Return the first of the granted models that is installed.

        :param explicit: whether the call named it.
        :raises RpcError: ModelNotFound or ModelNotInstalled; EngineUnavailable if it came with the sidecar and is gone.
        """
        entries = [entry for model in models if (entry := self.catalogue.get(model)) is not None]
        if not entries:
            known = ", ".join(entry.id for entry in self.catalogue if entry.id in self.declared())  # mention no others
            what = f"There is no model {models[0]} in the catalogue"
            what += f"; of the models that the manifest names, it has {known}." if known else "."
            raise RpcError("ModelNotFound", what + self.catalogue.note, model=models[0])
        installed = [entry for entry in entries if entry.id in self._inventory.expected]
        if not installed:
            which = entries[0].id
            advice = "" if explicit else " None of the granted models is."
            message = f"The model {which} is not installed on this machine.{advice}"
            raise RpcError("ModelNotInstalled", message, model=which)
        # default to a model that no engine can run only if there is no other
        chosen = next((entry for entry in installed if entry.family in RUNNABLE), installed[0])
        if self.folder(chosen.id) is None:
            raise inventory.lost(chosen.id)
        return chosen

    def check_engine(self, asked: str | None, entry: Entry) -> None:
        """Check that this daemon's engine is the requested one and supports the model's family.

        :raises RpcError: EngineUnavailable if not.
        """
        if self.fake:
            return
        if asked not in (None, "auto", self.engine):
            message = f"This sidecar runs the {self.engine} engine, not {asked}."
            raise RpcError("EngineUnavailable", message, engine=asked)
        entry.require_runnable()

    def declared(self) -> set[str]:
        """Return the models that the manifest names."""
        manifest = self._policy().manifest
        return set() if manifest is None else {entry.id for entry in manifest.models}

    def manages(self) -> bool:
        """Whether the host lets the app manage all models."""
        return MANAGEMENT in self._policy().flags

    def holds(self, model: str) -> bool:
        """Whether a declared model may be used as installed, that is, matches the digest that the manifest pins."""
        try:
            authorize(self._policy(), METHODS["models.get"], self.wanted(model, lambda _: None))
        except RpcError:
            return False
        return True

    # --- digests -------------------------------------------------------------------------

    async def digest(self, call: Call, model_id: str, read: Callable[[int], object]) -> str:
        """Return the installed model's digest, checked against the one the manifest pins, if any; empty if it has no
        files.

        The gate was asked when the call arrived, but hashing a large folder of the host's takes minutes, and the call
        should not wait for that.

        :param read: called now and then, in another thread, with the number of bytes hashed; raising ends the hashing.
        :raises RpcError: ModelIncomplete; EngineUnavailable if it came with the sidecar and is gone; CapabilityDenied
            if the manifest pins another digest.
        """
        pinned = model_id in self._pinned()
        folder = self.files(model_id)
        if folder is None or (self.fake and not pinned):
            return ""
        digest = await anyio.to_thread.run_sync(inventory.digest, model_id, folder, read)
        if pinned:
            wanted = AccessRequest(models=(model_id,), digests={model_id: digest})
            try:
                authorize(self._policy(), METHODS["models.get"], wanted)
            except RpcError as denied:
                self._record(call, wanted, denied)
                raise
            self._proven.add(model_id)
        return digest

    def _pinned(self) -> set[str]:
        """Return the models of which the manifest allows only certain versions. An entry without a digest does not lift
        the pin of another entry.
        """
        manifest = self._policy().manifest
        return set() if manifest is None else {entry.id for entry in manifest.models if entry.digest is not None}
