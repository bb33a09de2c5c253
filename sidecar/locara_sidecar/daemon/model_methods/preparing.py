"""Keeps a quantized form of a model, from beginning to end; also used by the command line.

A separate engine process writes into a folder that the store created for it, and ends. Then a worker process checks,
hashes and publishes the files. Whatever happens, only a complete prepared form is left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import ModelPhase, PrepareResult
from locara_protocol.records import Record
from locara_sidecar.ipc import frames
from locara_sidecar.models import worker
from locara_sidecar.models.cache import collect
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.cache.store import DerivedFrom
from locara_sidecar.models.imports import derive
from locara_sidecar.models.imports.importing import storage_error
from locara_sidecar.weights.weight_files import stored_bytes

if TYPE_CHECKING:
    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry

Tell = Callable[[ModelPhase, int, int], None]
"""Phase, bytes so far, total bytes."""


class Engine(Protocol):
    """The part of :class:`~locara_sidecar.daemon.engine_host.client.EngineClient` that is needed."""

    async def prepare(
        self, spec: frames.PrepareSpec, on_event: Callable[[frames.PhaseStarted | frames.Step | frames.Image], None]
    ) -> frames.Prepared:
        """See :meth:`EngineClient.prepare`."""
        ...


class PreparationRequest(Record, frozen=True):
    """What to prepare; the caller keeps the model in use meanwhile.

    :param model: with the folder, the digest, the quantization and the existing forms.
    :param digest: returns the model's current digest.
    :param run_work: runs the rest in a worker process, on behalf of the caller.
    """

    job: str
    store: Store
    entry: Entry
    model: frames.ModelSpec
    engine: str
    digest: Callable[[], str]
    run_work: Callable[[worker.WorkerRequest, Callable[[DownloadProgress], None]], Awaitable[worker.WorkerResult]]


async def prepare(request: PreparationRequest, engine: Engine, tell: Tell) -> PrepareResult:
    """Prepare and publish; an existing form is returned as it is.

    :raises RpcError: as the engine fails, or as publishing does (``models/imports/derive.py``).
    """
    total = await anyio.to_thread.run_sync(stored_bytes, Path(request.model.path))

    def on_event(event: frames.Event) -> None:
        if isinstance(event, frames.PhaseStarted):
            tell("reading", round(total * event.fraction), total)

    def on_work(progress: DownloadProgress) -> None:
        if progress.phase in ("verifying", "publishing"):
            tell(progress.phase, progress.bytes, progress.total_bytes)

    tell("reading", 0, total)
    try:
        await anyio.to_thread.run_sync(request.store.prepare)
        await anyio.to_thread.run_sync(collect.sweep, request.store)
    except OSError as error:
        raise storage_error(request.store, error, total) from error
    stage = _Stage(request.store)
    try:
        try:
            folder = await anyio.to_thread.run_sync(stage.make)
        except OSError as error:
            raise storage_error(request.store, error, total) from error
        into = folder / derive.MADE
        made = await engine.prepare(frames.PrepareSpec(job=request.job, model=request.model, into=str(into)), on_event)
        if made.there is None:
            if await anyio.to_thread.run_sync(request.digest) != request.model.digest:
                raise RpcError("IntegrityError", f"The files of {request.entry.id} changed in the meantime.", files=[])
            making = derive.Derivation(
                folder=str(folder),
                source=request.model.path,
                components=made.components,
                derived_from=msgspec.convert(  # which validates it
                    {
                        "digest": request.model.digest,
                        "model": request.entry.id,
                        "engine": request.engine,
                        "quantization": made.quantization,
                        "precision": made.precision,
                        "layout": frames.PREPARED_LAYOUT,
                    },
                    DerivedFrom,
                ),
            )
            work = worker.WorkerRequest(op="derive", root=str(request.store.root), entry=request.entry, making=making)
            key = (await request.run_work(work, on_work)).digest.removeprefix("sha256:")
        else:
            key = Path(made.there).name
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stage.remove)
    return await anyio.to_thread.run_sync(_result, request, key)


def _result(request: PreparationRequest, key: str) -> PrepareResult:
    """Return the method's result for the prepared form that has this key in the store.

    :raises RpcError: StorageError, if it is gone.
    """
    form = request.store.entry(key)
    if form is None or form.derived_from is None:
        raise RpcError("StorageError", "The prepared form was removed again right away.", errno="ENOENT")
    made = form.derived_from
    source = request.store.entry(made.digest.removeprefix("sha256:"))
    own = set[tuple[str, str]]()
    if source is not None:
        own = {(file.path, file.sha256) for file in source.meta.files}
    return msgspec.convert(
        {
            "model": request.entry.id,
            "digest": form.meta.digest,
            "derivedFrom": made.digest,
            "engine": made.engine,
            "quantization": made.quantization,
            "precision": made.precision,
            "bytes": form.meta.bytes,
            "sharedBytes": sum(file.size for file in form.meta.files if (file.path, file.sha256) in own),
        },
        PrepareResult,
    )


class _Stage:
    """A folder for assembling the form, with one inside for the engine to write to.

    A cancel may come while a thread makes it: Ctrl-C's does not go through anyio, which could keep it away. Making and
    removing wait for each other, so that nothing is left.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._removed = False
        self._staging: Staging | None = None

    def make(self) -> Path:
        """Create the folder and return it.

        :raises OSError: if the cache cannot be written.
        """
        with self._lock:
            if self._removed:
                raise FileNotFoundError("the folder is not needed any more")
            self._staging = Staging(self._store)
            (self._staging.folder / derive.MADE).mkdir(mode=0o700)
            return self._staging.folder

    def remove(self) -> None:
        """Remove the folder, now or if it is made later."""
        with self._lock:
            self._removed = True
            if self._staging is not None:
                self._staging.__exit__()
