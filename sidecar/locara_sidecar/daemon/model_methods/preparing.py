"""Keeps a quantized form of a model, from beginning to end; also used by the command line.

A separate engine process writes into a folder that the store created for it, and ends. Then a worker process checks,
hashes and publishes the files. Whatever happens, only a complete prepared form is left behind.
"""

from __future__ import annotations

import os
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
from locara_sidecar.machine.processes.trees import files_below

if TYPE_CHECKING:
    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models import worker
    from locara_sidecar.models.cache.staging import Staging
    from locara_sidecar.models.cache.store import Installed, Store
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
    from locara_sidecar.models import worker
    from locara_sidecar.models.cache import collect
    from locara_sidecar.models.cache.store import DerivedFrom
    from locara_sidecar.models.imports import derive
    from locara_sidecar.models.imports.importing import storage_error

    total = await anyio.to_thread.run_sync(weight_bytes, Path(request.model.path))

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
        # a few empty folders, created synchronously: a cancel (Ctrl-C's does not go through anyio) must not come
        # between this and the try
        stage = _stage(request.store)
    except OSError as error:
        raise storage_error(request.store, error, total) from error
    try:
        into = stage.folder / derive.MADE
        made = await engine.prepare(frames.PrepareSpec(job=request.job, model=request.model, into=str(into)), on_event)
        if made.there is None:
            if await anyio.to_thread.run_sync(request.digest) != request.model.digest:
                raise RpcError("IntegrityError", f"The files of {request.entry.id} changed in the meantime.", files=[])
            making = derive.Derivation(
                folder=str(stage.folder),
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
            await anyio.to_thread.run_sync(stage.__exit__)
    form = request.store.entry(key)
    if form is None or form.derived_from is None:
        raise RpcError("StorageError", "The prepared form was removed again right away.", errno="ENOENT")
    return result(request.store, request.entry, form)


def result(store: Store, entry: Entry, form: Installed) -> PrepareResult:
    """Return the method's result for a prepared form."""
    made = form.derived_from
    assert made is not None
    source = store.entry(made.digest.removeprefix("sha256:"))
    own = set[tuple[str, str]]()
    if source is not None:
        own = {(file.path, file.sha256) for file in source.meta.files}
    return msgspec.convert(
        {
            "model": entry.id,
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


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights on disk; 0 if unknown."""
    try:
        return sum(os.stat(path).st_size for path in files_below(folder) if path.endswith(".safetensors"))
    except OSError:
        return 0


def _stage(store: Store) -> Staging:
    """Create a folder for assembling the form, with one inside for the engine to write to."""
    from locara_sidecar.models.cache.staging import Staging
    from locara_sidecar.models.imports import derive

    stage = Staging(store)
    (stage.folder / derive.MADE).mkdir(mode=0o700)
    return stage
