"""Operations on this machine's models: the rules shared by the ``models.*`` methods and
``locara-sidecar models``, which differ only in who may ask.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from locara_protocol import model_messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.machine import supported
from locara_sidecar.machine.processes.trees import files_below
from locara_sidecar.models import fit, worker
from locara_sidecar.models.cache import collect, disk, survey
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.cache.store import latest
from locara_sidecar.models.catalogue import RUNNABLE
from locara_sidecar.models.forms import usable
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from msgspec import UnsetType

    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.models.cache.store import Installed, Store
    from locara_sidecar.models.catalogue import Catalogue, Entry

_LAST = 253402300799  # seconds: 9999-12-31; a file may have any time

# --- list and get ----------------------------------------------------------------------------


def describe(
    catalogue: Catalogue,
    entries: Iterable[Entry],
    machines: dict[str, Machine],
    engines: list[str],
    holds: Callable[[str], bool] = lambda _: True,
) -> list[m.Model]:
    """Return models as shown by ``models.list``, after one look at the store.

    :param machines: the engines to rate the fit for, in this order, with the machine; the first gets the
        recommendation.
    :param engines: those that may draw with it, whose speeds are listed.
    :param holds: whether the model with that id may be used as it is installed.
    """
    found = [] if catalogue.store is None else catalogue.store.entries()
    installed, forms = latest(found), usable(found)
    folders = catalogue.folders(installed)
    return [
        _describe(
            entry,
            machines,
            engines,
            folder=folders.get(entry.id),
            installed=installed.get(entry.id),
            forms=_forms(catalogue, entry, installed.get(entry.id), forms),
            granted=holds(entry.id),
        )
        for entry in entries
    ]


def free_bytes(store: Store) -> int | UnsetType:
    """Return how many bytes are left for models, if the system reports it."""
    try:
        return disk.available(store.root)
    except OSError:
        return UNSET


def _describe(
    entry: Entry,
    machines: dict[str, Machine],
    engines: list[str],
    *,
    folder: Path | None,
    installed: Installed | None,
    forms: list[m.PreparedForm],
    granted: bool,
) -> m.Model:
    kept = {(form.engine, form.quantization) for form in forms}
    rows = [row for engine, machine in machines.items() for row in fit.table(entry, machine, [engine], kept)]
    commits = {} if installed is None else {origin.repository: origin.revision for origin in installed.meta.source}
    return m.Model(
        id=entry.id,
        version=entry.version,
        display_name=entry.display_name,
        description=entry.description,
        tags=entry.tags,
        license=entry.license,
        license_url=entry.license_url,
        commercial_use=entry.commercial_use,
        gated=entry.gated,
        modalities=entry.modalities,
        family=entry.family,
        parameters=entry.parameters,
        download_bytes=entry.download_bytes,
        classifier_free_guidance=entry.classifier_free_guidance,
        schedulers=entry.schedulers,
        defaults=msgspec.convert(entry.defaults, m.ModelDefaults, from_attributes=True),
        limits=msgspec.convert(entry.sides, m.ModelLimits, from_attributes=True),
        max_references=entry.references,
        speeds=_speeds(entry, engines),
        source=[
            m.ModelSource(repository=source.repository, revision=commits.get(source.repository, source.revision))
            for source in entry.sources
            if source.repository is not None
        ],
        installed=folder is not None or entry.is_shipped,  # even if an update has just moved it
        granted=granted,
        runnable=entry.family in RUNNABLE,
        fit=rows,
        recommended=fit.recommend(row for row in rows if row.engine == next(iter(machines))),
        prepared=forms,
        digest=UNSET if folder is None or installed is None else installed.meta.digest,
        path=UNSET if folder is None else str(folder),
    )


def _speeds(entry: Entry, engines: list[str]) -> list[m.ModelSpeed]:
    """Return what ``speed`` can be with each engine that can draw with the model, ``exact`` first."""
    able = [engine for engine in engines if engine == "fake" or entry.family in RUNNABLE]
    return [
        m.ModelSpeed(engine=engine, speed=name, least_steps=least)
        for engine in able
        for name in dict.fromkeys(("exact", *entry.speeds))
        if (least := supported.least_steps(engine, entry.family, name)) is not None
    ]


def _forms(
    catalogue: Catalogue, entry: Entry, installed: Installed | None, forms: Iterable[Installed]
) -> list[m.PreparedForm]:
    """Return which of ``forms`` are the installed model's. A host's folder is not hashed to find them: its forms are
    those made under its id, as their ``derivedFrom`` says.
    """
    own = catalogue.own_folder(entry.id) is not None
    if not own and installed is None:
        return []
    return [
        _prepared_form(form)
        for form in forms
        if (made := form.derived_from)
        and (made.model == entry.id if own else installed is not None and made.digest == installed.meta.digest)
    ]


def _prepared_form(form: Installed) -> m.PreparedForm:
    """Return a prepared form as shown by ``models.list``."""
    made = form.derived_from
    assert made is not None
    return m.PreparedForm(
        engine=made.engine,
        quantization=msgspec.convert(made.quantization, Literal["8bit", "4bit"]),
        precision=made.precision,
        digest=form.meta.digest,
        derived_from=made.digest,
        bytes=form.meta.bytes,
    )


# --- usage, remove and gc --------------------------------------------------------------------


def usage(store: Store, only: set[str] | None = None) -> m.UsageResult:
    """Report how much space the models take.

    :param only: these models alone; None for the whole cache.
    """
    report = survey.usage(store, only)
    entries = [
        m.UsageEntry(
            model=model_id,
            digest=model.entry.meta.digest,
            bytes=model.bytes,
            shared_bytes=model.shared,
            last_used=_utc(model.entry.last_used),
            in_use=model.in_use,
            **_of_form(model.entry),
        )
        for model in report.models
        for model_id in model.entry.names
        if only is None or model_id in only
    ]
    return m.UsageResult(bytes=report.bytes, reclaimable_bytes=report.reclaimable, entries=entries)


def remove(store: Store, model_id: str, *, only_prepared: bool = False, dry_run: bool = False) -> m.RemovedResult:
    """Remove a model with its prepared forms, or only those.

    :raises RpcError: as :func:`~locara_sidecar.models.cache.collect.plan_remove` and
        :func:`~locara_sidecar.models.cache.collect.remove`.
    """
    plan = collect.plan_remove(store, model_id, only_prepared=only_prepared)
    done = plan if dry_run else collect.remove(store, plan, model_id)
    return _removed(done, [model_id])


def gc(store: Store, max_bytes: int | None = None, *, dry_run: bool = False) -> m.RemovedResult:
    """Collect what no model needs; see :func:`~locara_sidecar.models.cache.collect.plan_gc`."""
    plan = collect.plan_gc(store, max_bytes)
    return _removed(plan if dry_run else collect.execute(store, plan))


def _removed(gone: collect.Plan | collect.Removed, ids: list[str] | None = None) -> m.RemovedResult:
    """Build the result of a removal.

    :param ids: those that were removed; None for all ids of each entry.
    """
    removed = [
        m.RemovedModel(model=name, digest=entry.meta.digest, **_of_form(entry))
        for entry in gone.models
        for name in ids or entry.names
    ]
    return m.RemovedResult(removed=removed, bytes=gone.bytes)


def _of_form(entry: Installed) -> dict[str, Any]:
    made = entry.derived_from
    return {} if made is None else {"derived_from": made.digest, "quantization": made.quantization}


def _utc(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(min(max(seconds, 0), _LAST) or time.time(), datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


# --- download, import and verify -------------------------------------------------------------


def work(
    catalogue: Catalogue,
    entry: Entry,
    op: Literal["download", "import", "verify"],
    *,
    there: Path | None,
    folder: Path | None = None,
    replace: bool = False,
    token: str | None = None,
) -> worker.WorkerRequest | None:
    """Build a worker's request; None for a download of a model in a host's folder, which :func:`own` answers.

    :param there: the folder that the model is installed in.
    :param folder: where to import from; ``replace``: replace another model.
    :param token: the hub's.
    :raises RpcError: ModelNotInstalled, InvalidParams, DownloadFailed; StorageError if an update removed a model that
        came
        with the sidecar.
    """
    assert catalogue.store is not None
    own = catalogue.own_folder(entry.id)
    if op == "verify":
        if there is None and entry.is_shipped:
            raise not_ours(f"cannot find {entry.id}")
        if there is None:
            raise RpcError("ModelNotInstalled", f"The model {entry.id} is not installed.", model=entry.id)
        folder = own
    elif op == "import" and own is not None:
        # the catalogue says where such a model is; nothing can replace it
        message = f"{entry.id} is used from the folder that the catalogue names for it; it cannot be imported."
        raise invalid_params("$.model", message)
    elif own is not None and there is not None:
        return None
    elif op == "download" and (own is not None or not entry.downloadable):
        message = f"{entry.id} comes from a folder of the host, not from a hub."
        raise RpcError("DownloadFailed", message, retryable=False)
    return worker.WorkerRequest(
        op=op,
        root=str(catalogue.store.root),
        entry=entry,
        folder=None if folder is None else str(folder),
        replace=replace,
        token=token,
    )


def result(work: worker.WorkerRequest, done: worker.WorkerResult) -> m.InstalledResult | m.VerifyResult:
    """Convert a worker's result to the method's."""
    if work.op == "verify":
        return m.VerifyResult(model=work.entry.id, digest=done.digest, files=done.files)
    return m.InstalledResult(model=work.entry.id, digest=done.digest, bytes=done.bytes, files=done.files)


def own(catalogue: Catalogue, entry: Entry) -> m.InstalledResult:
    """Return the answer to a download of a model in a host's folder, which is hashed; counts files as a check does."""
    from locara_sidecar.models.checks.check import ALLOWED  # only here

    folder = catalogue.own_folder(entry.id)
    assert folder is not None
    files = [path for path in map(Path, files_below(folder)) if path.is_file() and path.suffix in ALLOWED]
    size = sum(path.stat().st_size for path in files)
    return m.InstalledResult(model=entry.id, digest=model_digest(folder), bytes=size, files=len(files))
