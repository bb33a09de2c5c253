"""What ``locara-sidecar models …`` prints for people; ``--json`` prints the methods' results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from locara_protocol.model_messages import ModelProgress

if TYPE_CHECKING:
    from locara_protocol.model_messages import (
        DownloadProgress,
        InstalledResult,
        PrepareResult,
        RemovedModel,
        RemovedResult,
        UsageResult,
        VerifyResult,
    )
    from locara_sidecar.cli.output.console import Console

_STEPS = 20
_WORDS = {"resolving": "asking the hub", "publishing": "installing it"}
_IMPORT = {**_WORDS, "resolving": "checking the files", "downloading": "reading"}


class Progress:
    """Shows a bar and a line of text for each message; if the output is not a terminal, only one line per 5 % of a
    phase.

    :param verb: the operation; an import has other names for the phases, because it downloads nothing.
    """

    def __init__(self, console: Console, verb: str, *, silent: bool) -> None:
        self._console = console
        self._words = _IMPORT if verb == "import" else _WORDS
        self._silent = silent
        self._last: tuple[str, int] | None = None

    def tell(self, progress: DownloadProgress | ModelProgress) -> None:
        """Show a message, unless it says nothing new."""
        share = progress.bytes / progress.total_bytes if progress.total_bytes else 0.0
        state = progress.phase, int(share * _STEPS)
        if self._silent or (not self._console.interactive and state == self._last):
            return
        self._last = state
        phase = self._words.get(progress.phase, progress.phase)
        if progress.total_bytes:
            self._console.live(None, share, "  ".join([phase, *_how_far(progress)]))
        else:
            self._console.live(None, None, f"{phase} …")


def _how_far(progress: DownloadProgress | ModelProgress) -> list[str]:
    if isinstance(progress, ModelProgress):
        return [f"{size(progress.bytes)} of {size(progress.total_bytes)}"]
    words = [f"{progress.files} of {progress.total_files} files"]
    if progress.phase == "downloading" and progress.bytes_per_second:
        words.append(f"{size(progress.bytes_per_second)}/s")
        if progress.eta_ms is not UNSET and progress.bytes < progress.total_bytes:
            words.append(f"{_duration(max(1, progress.eta_ms // 1000))} left")
    return words


def of_installed(result: InstalledResult) -> list[str]:
    """Describe a successful download or import."""
    return [f"{result.model} is installed: {result.files} files, {size(result.bytes)}, {result.digest}"]


def of_prepared(result: PrepareResult) -> list[str]:
    """Describe a finished prepared form."""
    own = size(result.bytes - result.shared_bytes)
    how = f"for {result.engine} in {result.quantization}, {result.precision}"
    return [f"{result.model} is prepared {how}: {own} more, {result.digest}"]


def of_verified(result: VerifyResult) -> list[str]:
    """Describe a check that found nothing."""
    return [f"{result.model} is intact: {result.files} files, {result.digest}"]


def of_usage(result: UsageResult, root: str) -> list[str]:
    """Describe the total size of the cache at ``root``."""
    how = " (models remove ID, or models gc --max-bytes SIZE)" if result.reclaimable_bytes else ""
    return [f"{size(result.bytes)} in {root}, {size(result.reclaimable_bytes)} can be freed{how}"]


def of_removed(result: RemovedResult, *, dry_run: bool) -> list[str]:
    """Describe what was, or would be, removed."""
    if not result.removed and not result.bytes:
        return ["Nothing to remove."]
    verb = "would remove" if dry_run else "removed"
    freed = f"{size(result.bytes)} {'would be ' if dry_run else ''}freed"
    return [*(f"{verb} {_removed(row)} ({row.digest})" for row in result.removed), freed]


def _removed(row: RemovedModel) -> str:
    return row.model if row.quantization is UNSET else f"{row.model} as prepared in {row.quantization}"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def size(count: int) -> str:
    """Format bytes for people, in powers of ten as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit != "MB" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
