"""What ``locara-sidecar models …`` says to people; ``--json`` says what the methods do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from locara_protocol.model_messages import ModelProgress
from locara_sidecar.cli.console import bar

if TYPE_CHECKING:
    from locara_protocol.model_messages import (
        DownloadProgress,
        InstalledResult,
        Model,
        ModelFit,
        ModelSpeed,
        PreparedForm,
        PrepareResult,
        RemovedModel,
        RemovedResult,
        UsageResult,
        VerifyResult,
    )

_LABEL = 12
_STEPS = 20


class Progress:
    """A status line for each message; where the output is no terminal only every twentieth part of a phase is worth
    a line.

    :param words: other words for phases, as an import does not download.
    """

    def __init__(self, *, interactive: bool, words: dict[str, str]) -> None:
        self._interactive = interactive
        self._words = words
        self._last: tuple[str, int] | None = None

    def line(self, progress: DownloadProgress | ModelProgress) -> str | None:
        """The line, or None when there is nothing new to say."""
        share = progress.bytes / progress.total_bytes if progress.total_bytes else 0.0
        state = progress.phase, int(share * _STEPS)
        if not self._interactive and state == self._last:
            return None
        self._last = state
        phase = self._words.get(progress.phase, progress.phase)
        if not progress.total_bytes:
            return f"{phase} …"
        words = [bar(share), f"{share * 100:3.0f} %", phase]
        if isinstance(progress, ModelProgress):
            return "  ".join([*words, f"{size(progress.bytes)} of {size(progress.total_bytes)}"])
        words.append(f"{progress.files} of {progress.total_files} files")
        if progress.phase == "downloading" and progress.bytes_per_second:
            words.append(f"{size(progress.bytes_per_second)}/s")
            if progress.eta_ms is not UNSET and progress.bytes < progress.total_bytes:
                words.append(f"{_duration(max(1, progress.eta_ms // 1000))} left")
        return "  ".join(words)


def of_list(models: list[Model]) -> list[str]:
    return [_row(model) for model in models]


def of_model(model: Model) -> list[str]:
    """All that there is to say about one model."""
    defaults, limits = model.defaults, model.limits
    sources = [f"{source.repository} at {source.revision or 'its latest commit'}" for source in model.source]
    told = {
        "licence": f"{model.license} ({model.license_url}){'' if model.commercial_use else ', not for commercial use'}",
        "gated": "yes: its licence must be accepted on the hub first" if model.gated else "",
        "kind": f"{model.family}, {_parameters(model.parameters)} parameters; {', '.join(model.modalities)}",
        "source": "; ".join(sources),
        "installed": _installed(model),
        "prepared": "; ".join(_prepared(form) for form in model.prepared),
        "digest": "" if model.digest is UNSET else model.digest,
        "defaults": f"{defaults.width} × {defaults.height}, {defaults.steps} steps, guidance {defaults.guidance:g}, "
        f"{defaults.scheduler}",
        "speeds": "; ".join(_speed(row) for row in model.speeds if row.speed != "exact"),
        "sizes": f"{limits.minimum} to {limits.maximum} pixels a side, in steps of {limits.multiple_of}",
    }
    lines = [f"{model.display_name} ({model.id}, version {model.version})", model.description, ""]
    lines += [f"{name:{_LABEL}}{text}" for name, text in told.items() if text]
    for number, row in enumerate(model.fit):
        lines.append(f"{'' if number else 'memory':{_LABEL}}{_fit(row)}{_mark(model, row)}")
    return lines


def of_installed(result: InstalledResult) -> list[str]:
    """A download or an import that ended well."""
    return [f"{result.model} is installed: {result.files} files, {size(result.bytes)}, {result.digest}"]


def of_prepared(result: PrepareResult) -> list[str]:
    """A prepared form that is there now."""
    own = size(result.bytes - result.shared_bytes)
    how = f"for {result.engine} in {result.quantization}, {result.precision}"
    return [f"{result.model} is prepared {how}: {own} more, {result.digest}"]


def of_verified(result: VerifyResult) -> list[str]:
    """A check that found nothing."""
    return [f"{result.model} is whole: {result.files} files, {result.digest}"]


def of_usage(result: UsageResult, root: str) -> list[str]:
    """The cache at ``root``."""
    rows = [
        f"{row.model:20} {size(row.bytes):>9}"
        + ("" if row.quantization is UNSET else f", prepared in {row.quantization}")
        + (f", {size(row.shared_bytes)} of it shared with others" if row.shared_bytes else "")
        + f", last used {row.last_used}"
        + (", in use" if row.in_use else "")
        for row in result.entries
    ]
    return [*rows, f"{size(result.bytes)} in {root}, {size(result.reclaimable_bytes)} can be freed"]


def of_removed(result: RemovedResult, *, dry_run: bool) -> list[str]:
    """What went, or would go."""
    if not result.removed and not result.bytes:
        return ["Nothing to remove."]
    verb = "would remove" if dry_run else "removed"
    freed = f"{size(result.bytes)} {'would be ' if dry_run else ''}freed"
    return [*(f"{verb} {_removed(row)} ({row.digest})" for row in result.removed), freed]


def _removed(row: RemovedModel) -> str:
    return row.model if row.quantization is UNSET else f"{row.model} as prepared in {row.quantization}"


def _row(model: Model) -> str:
    state = "installed" if model.installed else f"{size(model.download_bytes)} to download"
    row = model.recommended
    fitting = "does not fit" if row is None else f"{row.fit}: {row.engine}, {_bits(row)}"
    if not model.runnable:
        fitting = "no engine runs it yet"
    return f"{model.id:20} {state:22} {fitting:28} {model.license}{', gated' if model.gated else ''}"


def _installed(model: Model) -> str:
    if not model.installed:
        return f"no, {size(model.download_bytes)} to download"
    return "yes" if model.path is UNSET else f"in {model.path}"


def _prepared(form: PreparedForm) -> str:
    return f"{form.engine} {form.quantization}, {form.precision}, {size(form.bytes)}"


def _speed(row: ModelSpeed) -> str:
    return f"{row.speed} from {row.least_steps} steps on ({row.engine})"


def _fit(row: ModelFit) -> str:
    words = {"fits": "fits", "tight": "tight", "no": "too large"}[row.fit]
    return (
        f"{row.engine:6}{_bits(row):16}{words:10}{size(row.weights):>8} of weights, {size(row.peak)} at most, "
        f"{size(row.available)} available"
    )


def _mark(model: Model, row: ModelFit) -> str:
    return " (recommended)" if row == model.recommended else ""


def _bits(row: Any) -> str:
    return "not quantized" if row.quantization == "none" else row.quantization


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def size(count: int) -> str:
    """Bytes for people, in powers of ten as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit != "MB" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
