"""The tables of the command line. On a terminal they use its width; ids are never wrapped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import UNSET
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from locara_sidecar.cli.output.model_lines import size
from locara_sidecar.machine import bundle, engine_choice
from locara_sidecar.machine.processes.trees import files_below

if TYPE_CHECKING:
    from locara_protocol.model_messages import Model, ModelFit, ModelSpeed, PreparedForm, UsageResult

_BITS = {"none": "no", "8bit": "8 bits", "4bit": "4 bits"}


def of_list(models: list[Model], engines: list[str]) -> Table:
    """Return a row for each model.

    :param engines: the installed ones; the fit is given for the first, which ``auto`` selects.
    """
    table = _headed()
    table.add_column("Model", no_wrap=True)
    table.add_column("Installed", no_wrap=True)
    table.add_column(f"Fits {engines[0]}" if engines else "Fits", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Licence", overflow="fold")
    table.add_column("Commercial\nuse", no_wrap=True)
    table.add_column("Gated", no_wrap=True)
    for model in models:
        table.add_row(
            Text(model.id),
            Text(_yes(model.installed), "green" if model.installed else ""),
            Text(_fitting(model, engines)),
            Text(_size_of(model)),
            Text(model.license.removesuffix(" License")),
            Text(_yes(model.commercial_use), "" if model.commercial_use else "yellow"),
            Text(_yes(model.gated)),
        )
    return table


def of_model(model: Model, engines: list[str]) -> list[tuple[str, str | Table]]:
    """Return everything about one model, each with a label.

    :param engines: the installed ones.
    """
    defaults, limits = model.defaults, model.limits
    sources = [f"{source.repository} at {source.revision or 'its latest commit'}" for source in model.source]
    told: list[tuple[str, str | Table]] = [
        ("installed", _installed(model)),
        *zip(("to get it", "", ""), how_to_get(model), strict=False),
        ("licence", f"{model.license}{'' if model.commercial_use else ', not for commercial use'}"),
        ("", model.license_url),
        ("kind", f"{model.family}, {_parameters(model.parameters)} parameters; {', '.join(model.modalities)}"),
        ("source", "; ".join(sources)),
        ("prepared", "; ".join(_prepared(form) for form in model.prepared)),
        ("digest", "" if model.digest is UNSET else model.digest),
        ("defaults", f"{defaults.width} × {defaults.height}, {defaults.steps} steps, guidance {defaults.guidance:g}"),
        ("scheduler", " or ".join(dict.fromkeys([defaults.scheduler, *model.schedulers]))),
        ("speeds", "; ".join(_speed(row) for row in model.speeds if row.speed != "exact")),
        ("sizes", f"{limits.minimum} to {limits.maximum} pixels per side, in steps of {limits.multiple_of}"),
        ("edits", f"up to {model.max_references} pictures together" if model.max_references > 1 else ""),
        ("memory", _memory(model) if model.fit else "" if engines else no_engine()),
    ]
    return [(label, what) for label, what in told if what]


def of_usage(result: UsageResult) -> Table:
    """Return a row for each model and prepared form in the cache."""
    table = _headed()
    table.add_column("Model", no_wrap=True)
    table.add_column("Prepared in", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Shared", justify="right", no_wrap=True)
    table.add_column("Last used (UTC)", no_wrap=True)
    table.add_column("In use", no_wrap=True)
    for row in result.entries:
        table.add_row(
            Text(row.model),
            "" if row.quantization is UNSET else _BITS.get(row.quantization, row.quantization),
            size(row.bytes),
            size(row.shared_bytes) if row.shared_bytes else "",
            row.last_used.replace("T", " ").partition(".")[0].removesuffix("Z"),
            _yes(row.in_use),
        )
    return table


def how_to_get(model: Model) -> list[str]:
    """Return what to do and type to get a model that is not installed; nothing for one that is."""
    if model.installed:
        return []
    if not model.source:
        return [f"locara-sidecar models import {model.id} FOLDER"]
    typed = f"locara-sidecar models download {model.id}"
    if not model.gated:
        return [typed]
    pages = " and ".join(source.repository for source in model.source)
    return [
        f"accept the licence on the hub's page of {pages} with your account; then, with one of its tokens:",
        f"HF_TOKEN=… {typed}",
        "(after `hf auth login`, without HF_TOKEN)",
    ]


def no_engine() -> str:
    """Return what to do if no engine is installed."""
    how = bundle.how_to_have(engine_choice.preferred()[0], "one")
    return f"No engine is installed, so nothing can be drawn; {how}"


def _headed() -> Table:
    return Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _fitting(model: Model, engines: list[str]) -> str:
    if not model.runnable:
        return "not yet"  # no engine of this version supports it
    if not engines:
        return "no engine"
    if not model.fit:
        return "not known"
    row = model.recommended
    if row is None:
        return "no"
    bits = "" if row.quantization == "none" else f"in {_BITS[row.quantization]}"
    return ", ".join(each for each in ("tight" if row.fit == "tight" else "", bits) if each) or "yes"


def _size_of(model: Model) -> str:
    """Return the size of the installed files, else of those to download; empty if the entry does not say."""
    if model.path is UNSET:
        return size(model.download_bytes) if model.download_bytes else ""
    return size(sum(os.stat(path).st_size for path in files_below(model.path) if os.path.isfile(path)))


def _installed(model: Model) -> str:
    if not model.installed:
        return f"no, {size(model.download_bytes)} to download" if model.download_bytes else "no"
    return "yes" if model.path is UNSET else f"in {model.path}"


def _memory(model: Model) -> Table:
    """Return what each engine would take, quantized or not, at the default size."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("engine", "quantized", "fits", "weights", "needs", "available", "", style="bold")
    for row in model.fit:
        table.add_row(*_fit(row), "best" if row == model.recommended else "")
    return table


def _fit(row: ModelFit) -> tuple[str, ...]:
    words = {"fits": "yes", "tight": "tight", "no": "no"}[row.fit]
    return row.engine, _BITS[row.quantization], words, size(row.weights), size(row.peak), size(row.available)


def _prepared(form: PreparedForm) -> str:
    return f"{form.engine} {form.quantization}, {form.precision}, {size(form.bytes)}"


def _speed(row: ModelSpeed) -> str:
    return f"{row.speed} from {row.least_steps} steps on ({row.engine})"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
