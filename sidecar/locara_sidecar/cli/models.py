"""``locara-sidecar models …``: the code of the ``models.*`` methods, without a daemon, with the user's own rights."""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.cli.console import Console, bar
from locara_sidecar.daemon import engine_choice, system
from locara_sidecar.daemon.model_calls import describe, machine_of, removed_result, usage_result
from locara_sidecar.models import catalogue, collect, worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.store import Store

VERBS = ("list", "get", "download", "import", "verify", "remove", "usage", "gc")


def run(options: argparse.Namespace) -> int:
    """Do what ``options.verb`` says; 0, or 1 with a sentence on stderr, or 130 when cancelled."""
    console = Console()
    try:
        known = catalogue.load(options.catalogue).with_cache(system.cache_root(options.cache_dir))
        assert known.store is not None
        shown = _RUN[options.verb](options, known, known.store, console)
    except RpcError as error:
        console.settle()
        console.error(f"locara-sidecar: {error.message}")
        return 130 if error.kind == "RequestCancelled" else 1
    except (OSError, catalogue.CatalogueError) as error:
        console.error(f"locara-sidecar: {error}")
        return 1
    console.settle()
    if options.json:
        console.line(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        for line in _lines(options.verb, shown):
            console.line(line)
    return 0


def _entry(known: Catalogue, model_id: str) -> Entry:
    entry = known.get(model_id)
    if entry is None:
        raise RpcError("ModelNotFound", f"There is no model {model_id} in the catalogue.")
    return entry


def _list(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    machine = machine_of(store.root)
    return [describe(known, entry, machine, engine_choice.installed()) for entry in known]


def _get(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    return describe(known, _entry(known, options.model), machine_of(store.root), engine_choice.installed())


def _work(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    entry = _entry(known, options.model)
    own = known.own_folder(entry.id)
    if options.verb != "verify" and (own is not None or (options.verb == "download" and not entry.downloadable)):
        raise RpcError("DownloadFailed", f"{entry.id} comes from a folder, not from a hub.", retryable=False)
    folder = options.folder.absolute() if options.verb == "import" else own
    work = worker.Work(
        op=options.verb, root=str(store.root), entry=entry, folder=None if folder is None else str(folder)
    )
    tell: Callable[[DownloadProgress], None] = partial(_show, console)
    return worker.perform(work, tell, _stop_on_interrupt)


def _stop_on_interrupt(stop: Callable[[], None]) -> None:
    """Ctrl-C ends a download in order (what has come stays), a second one at once."""

    def handler(*_: object) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, handler)


def _remove(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    plan = collect.plan_remove(store, options.model)
    if not options.dry_run:
        done = collect.remove(store, plan, options.model)
        return removed_result(done.models, done.bytes, options.model)
    return removed_result(plan.models, plan.bytes, options.model)


def _usage(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    return usage_result(collect.usage(store), None)


def _gc(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    plan = collect.plan_gc(store, options.max_bytes)
    if options.dry_run:
        return removed_result(plan.models, plan.bytes)
    done = collect.execute(store, plan)
    return removed_result(done.models, done.bytes)


_RUN: dict[str, Callable[[argparse.Namespace, Catalogue, Store, Console], Any]] = {
    "list": _list,
    "get": _get,
    "download": _work,
    "import": _work,
    "verify": _work,
    "remove": _remove,
    "usage": _usage,
    "gc": _gc,
}


# --- for people ------------------------------------------------------------------------------


def _show(console: Console, progress: DownloadProgress) -> None:
    share = progress.bytes / progress.total_bytes if progress.total_bytes else 0.0
    words = [bar(share), f"{share * 100:3.0f} %", progress.phase, f"{progress.files}/{progress.total_files} files"]
    if progress.phase == "downloading" and progress.bytes_per_second:
        words.append(f"{size(progress.bytes_per_second)}/s")
    console.live(None, "  ".join(words))


def _lines(verb: str, shown: Any) -> list[str]:
    if verb == "list":
        return [_model_line(model) for model in shown]
    if verb == "get":
        found = msgspec.to_builtins(shown)
        return [f"{name:24} {value}" for name, value in found.items() if not isinstance(value, list | dict)]
    if verb in ("download", "import", "verify"):
        return [f"{shown.files} files, {size(shown.bytes)}, {shown.digest}"]
    if verb == "usage":
        rows = [
            f"{row.model:20} {size(row.bytes):>9}, {size(row.shared_bytes)} shared, last used {row.last_used}"
            + (", in use" if row.in_use else "")
            for row in shown.entries
        ]
        return [*rows, f"{size(shown.bytes)} in all, {size(shown.reclaimable_bytes)} can be freed"]
    return [*(f"{row.model} {row.digest}" for row in shown.removed), f"{size(shown.bytes)}"]


def _model_line(model: Any) -> str:
    state = "installed" if model.installed else f"{size(model.download_bytes)} to download"
    row = model.recommended
    fitting = "does not fit" if row is None else f"{row.fit} ({row.engine}, {row.quantization})"
    if not model.runnable:
        fitting = "no engine runs it yet"
    return f"{model.id:20} {state:22} {fitting:28} {model.license}"


def size(count: int) -> str:
    """Bytes for people, in powers of ten as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the loop returns")
