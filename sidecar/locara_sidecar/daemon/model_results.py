"""What the ``models.*`` methods answer, from what the catalogue, the store and a worker tell.

The command line shows the same.
"""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from locara_protocol import model_messages as m
from locara_sidecar.daemon import system
from locara_sidecar.engine import speeds
from locara_sidecar.models import fit
from locara_sidecar.models.catalogue import RUNNABLE

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.models import survey, worker
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.store import Installed, Store


def machines(store: Store, engines: list[str]) -> dict[str, Machine]:
    """This machine as each engine's memory plan sees it."""
    return {engine: system.machine(store.root, engine) for engine in engines}


def describe(
    catalogue: Catalogue, entry: Entry, machines: dict[str, Machine], engines: list[str], *, granted: bool = True
) -> m.Model:
    """A model as ``models.list`` shows it.

    :param machines: by engine, for which of them the fit is told, in this order.
    :param engines: those that may draw with it, whose speeds are told.
    """
    installed = None if catalogue.store is None else catalogue.store.find(entry.id)
    folder = catalogue.folder(entry.id)
    forms = _forms(catalogue, entry, installed)
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
        speeds=_speeds(entry, engines),
        source=[
            m.ModelSource(repository=source.repository, revision=commits.get(source.repository, source.revision))
            for source in entry.sources
            if source.repository is not None
        ],
        installed=folder is not None,
        granted=granted,
        runnable=entry.family in RUNNABLE,
        fit=rows,
        recommended=fit.recommend(rows),
        prepared=forms,
        digest=UNSET if folder is None or installed is None else installed.meta.digest,
        path=UNSET if folder is None else str(folder),
    )


def _speeds(entry: Entry, engines: list[str]) -> list[m.ModelSpeed]:
    """What ``speed`` can be with each engine that draws with the model, ``exact`` first."""
    able = [engine for engine in engines if engine == "fake" or entry.family in RUNNABLE]
    return [
        m.ModelSpeed(engine=engine, speed=name, least_steps=least)
        for engine in able
        for name in dict.fromkeys(("exact", *entry.speeds))
        if (least := speeds.least_steps(engine, entry.family, name)) is not None
    ]


def _forms(catalogue: Catalogue, entry: Entry, installed: Installed | None) -> list[m.PreparedForm]:
    """The prepared forms that the installed model has. A folder of the host's is not hashed to find out: its are those
    that were made under its id, and their ``derivedFrom`` tells."""
    from locara_sidecar.models.forms import usable

    store = catalogue.store
    if store is None:
        return []
    own = catalogue.own_folder(entry.id) is not None
    if not own and installed is None:
        return []
    found = [
        form
        for form in usable(store)
        if (made := form.derived_from)
        and (made.model == entry.id if own else installed is not None and made.digest == installed.meta.digest)
    ]
    return [_prepared_form(form) for form in found]


def _prepared_form(form: Installed) -> m.PreparedForm:
    """A prepared form as ``models.list`` shows it."""
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


def usage_result(report: survey.Report, granted: set[str] | None) -> m.UsageResult:
    """:param granted: only these models' entries; None for all."""
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
        if granted is None or model_id in granted
    ]
    return m.UsageResult(bytes=report.bytes, reclaimable_bytes=report.reclaimable, entries=entries)


def removed_result(models: list[Installed], freed: int, model_id: str | None = None) -> m.RemovedResult:
    """:param model_id: the id that was removed; None for all ids of each entry."""
    removed = [
        m.RemovedModel(model=name, digest=entry.meta.digest, **_of_form(entry))
        for entry in models
        for name in ([model_id] if model_id is not None else entry.names)
    ]
    return m.RemovedResult(removed=removed, bytes=freed)


def _of_form(entry: Installed) -> dict[str, Any]:
    made = entry.derived_from
    return {} if made is None else {"derived_from": made.digest, "quantization": made.quantization}


def own_result(model_id: str, folder: Path) -> m.InstalledResult:
    """A model that the catalogue has a folder for is there without any download."""
    from locara_sidecar.models.digest import model_digest

    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return m.InstalledResult(model=model_id, digest=model_digest(folder), bytes=size, files=len(files))


def work_result(work: worker.Work, done: worker.Done) -> m.InstalledResult | m.VerifyResult:
    """A worker's last word as the method answers it."""
    if work.op == "verify":
        return m.VerifyResult(model=work.entry.id, digest=done.digest, files=done.files)
    return m.InstalledResult(model=work.entry.id, digest=done.digest, bytes=done.bytes, files=done.files)


def _utc(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds or time.time(), datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
