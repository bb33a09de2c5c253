"""``locara-sidecar models …``: the code of the ``models.*`` methods, without a daemon, with the user's own rights."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.cli import model_lines
from locara_sidecar.cli.console import Console
from locara_sidecar.daemon import engine_choice, system
from locara_sidecar.daemon.model_results import (
    describe,
    machines,
    own_result,
    removed_result,
    usage_result,
    work_result,
)
from locara_sidecar.models import catalogue, collect, survey, worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress, ModelProgress
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.store import Store

VERBS = ("list", "get", "download", "import", "prepare", "verify", "remove", "usage", "gc")


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
    except KeyboardInterrupt:
        console.settle()
        console.error("locara-sidecar: The request was cancelled.")
        return 130
    except (OSError, catalogue.CatalogueError) as error:
        console.error(f"locara-sidecar: {error}")
        return 1
    console.settle()
    if options.json:
        console.line(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        for line in _lines(options, shown, known.store):
            console.line(line)
    return 0


def _entry(known: Catalogue, model_id: str) -> Entry:
    entry = known.get(model_id)
    if entry is None:
        raise RpcError("ModelNotFound", f"There is no model {model_id} in the catalogue.")
    return entry


def _list(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    engines = engine_choice.installed()
    found = machines(store, engines)
    return [describe(known, entry, found, engines) for entry in known]


def _get(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    engines = engine_choice.installed()
    return describe(known, _entry(known, options.model), machines(store, engines), engines)


def _work(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    entry = _entry(known, options.model)
    own = known.own_folder(entry.id)
    if options.verb != "verify" and (own is not None or (options.verb == "download" and not entry.downloadable)):
        if own is not None and known.folder(entry.id) is not None:
            return own_result(entry.id, own)
        raise RpcError("DownloadFailed", f"{entry.id} comes from a folder, not from a hub.", retryable=False)
    folder = options.folder.absolute() if options.verb == "import" else own
    work = worker.Work(
        op=options.verb, root=str(store.root), entry=entry, folder=None if folder is None else str(folder)
    )
    words = {"downloading": "reading"} if options.verb == "import" else {}
    progress = model_lines.Progress(interactive=console.interactive, words=words)

    def tell(message: DownloadProgress) -> None:
        line = progress.line(message)
        if line is not None and not options.json:
            console.live(None, line)

    return work_result(work, worker.perform(work, tell, _stop_on_interrupt))


def _prepare(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    from locara_sidecar.cli.prepare import prepare

    progress = model_lines.Progress(interactive=console.interactive, words={})

    def tell(message: ModelProgress) -> None:
        line = progress.line(message)
        if line is not None and not options.json:
            console.live(None, line)

    return prepare(
        known,
        _entry(known, options.model),
        engine=engine_choice.choose_engine(options.engine),
        quantization=options.quantization,
        precision=options.precision,
        tell=tell,
    )


def _stop_on_interrupt(stop: Callable[[], None]) -> None:
    """Ctrl-C ends a download in order (what has come stays), a second one at once."""

    def handler(*_: object) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, handler)


def _remove(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    plan = collect.plan_remove(store, options.model, only_prepared=options.prepared)
    if not options.dry_run:
        done = collect.remove(store, plan, options.model)
        return removed_result(done.models, done.bytes, options.model)
    return removed_result(plan.models, plan.bytes, options.model)


def _usage(options: argparse.Namespace, known: Catalogue, store: Store, console: Console) -> Any:
    return usage_result(survey.usage(store), None)


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
    "prepare": _prepare,
    "verify": _work,
    "remove": _remove,
    "usage": _usage,
    "gc": _gc,
}


def _lines(options: argparse.Namespace, shown: Any, store: Store) -> list[str]:
    match options.verb:
        case "list":
            return model_lines.of_list(shown)
        case "get":
            return model_lines.of_model(shown)
        case "download" | "import":
            return model_lines.of_installed(shown)
        case "prepare":
            return model_lines.of_prepared(shown)
        case "verify":
            return model_lines.of_verified(shown)
        case "usage":
            return model_lines.of_usage(shown, str(store.root))
        case _:
            return model_lines.of_removed(shown, dry_run=options.dry_run)
