"""``locara-sidecar models prepare``: the code of ``models.prepare``, with its own engine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import ModelPhase, ModelProgress, PrepareResult
from locara_sidecar.daemon.model_methods import preparing
from locara_sidecar.daemon.model_methods.model_work import run_for_user
from locara_sidecar.machine import engine_choice
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.forms import forms_for
from locara_sidecar.models.lease import Leases
from locara_sidecar.models.model_specs import model_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.models.catalogue import Catalogue, Entry


def prepare(
    known: Catalogue,
    entry: Entry,
    *,
    engine: str,
    quantization: str,
    precision: str,
    tell: Callable[[ModelProgress], None],
) -> PrepareResult:
    """Prepare an installed model; Ctrl-C stops it and leaves nothing behind.

    :raises RpcError: ModelNotInstalled, EngineUnavailable, and what preparing raises.
    """
    folder, store = known.folder(entry.id), known.store
    missing = RpcError("ModelNotInstalled", f"The model {entry.id} is not installed on this machine.", model=entry.id)
    if folder is None or store is None:
        raise missing
    entry.require_runnable()
    engine_choice.require_preparing(engine)
    lock = store.use(folder.name) if folder.parent == store.models else None
    if lock is None and folder.parent == store.models:
        raise missing
    digest = model_digest(folder)
    spec = model_spec(entry, folder=str(folder), digest=digest, quantization=quantization, precision=precision)
    forms = forms_for(store.entries(), spec, engine)
    order = preparing.PreparationRequest(
        job="prepare",
        store=store,
        entry=entry,
        model=msgspec.structs.replace(spec, reserved=Leases(store.root).reserved(), prepared=forms),
        engine=engine,
        digest=partial(model_digest, folder),
        run_work=run_for_user,
    )

    def on_progress(phase: ModelPhase, done: int, total: int) -> None:
        tell(ModelProgress(model=entry.id, phase=phase, bytes=done, total_bytes=total))

    try:
        return anyio.run(_with_engine, order, on_progress)
    finally:
        if lock is not None:
            lock.release()


async def _with_engine(order: preparing.PreparationRequest, tell: preparing.Tell) -> PrepareResult:
    from locara_sidecar.daemon.engine_host.client import EngineClient

    client = EngineClient(order.engine, on_log=lambda _: None)
    try:
        return await preparing.prepare(order, client, tell)
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()
