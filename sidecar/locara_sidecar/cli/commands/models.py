"""``locara-sidecar models …``: the code of the ``models.*`` methods, without a daemon, with the user's own rights."""

from __future__ import annotations

import errno
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import ModelsListResult
from locara_sidecar.cli.output import model_lines
from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.guard import CANCELLED, advice, say
from locara_sidecar.daemon import system
from locara_sidecar.machine import engine_choice
from locara_sidecar.models import catalogue, operations, worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Catalogue


def run(options: argparse.Namespace) -> int:
    """Run the subcommand ``options.verb``; return 0, or 1 with a sentence on stderr, or 130 if cancelled."""
    console = Console()
    known: Catalogue | None = None
    try:
        known = catalogue.load(options.catalogue).with_cache(system.cache_root(options.cache_dir))
        for words in known.skipped:
            console.error(f"locara-sidecar: left out of the catalogue: {words}")
        assert known.store is not None
        if known.store.root.exists() and not known.store.root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "the model cache must be a folder", str(known.store.root))
        shown = _RUN[options.verb](options, known, known.store, console)
    except RpcError as error:
        say(console, error.message)
        # after a removal, advice on installing the model would be out of place
        more = None if options.verb == "remove" else _advice(error, known, getattr(options, "model", ""))
        if more is not None:
            console.error(more)
        return CANCELLED if error.kind == "RequestCancelled" else 1
    except catalogue.CatalogueError as error:
        say(console, str(error))
        return 1
    console.settle()
    if options.json:
        console.json(shown)
    else:
        _show(console, options, shown, known.store)
    return 0


def _advice(error: RpcError, known: Catalogue | None, asked: str) -> str | None:
    model = str(error.data.get("model", asked))
    entry = None if known is None else known.get(model)
    return advice(
        error.kind, error.data, model, from_hub=entry is None or entry.downloadable, retryable=error.retryable
    )


def _list(_options: argparse.Namespace, known: Catalogue, store: Store, _console: Console) -> Any:
    engines = engine_choice.installed()
    found = system.machines(store.root, engines)
    shown = operations.describe(known, known, found, engines)
    return ModelsListResult(models=shown, free_bytes=operations.free_bytes(store))


def _get(options: argparse.Namespace, known: Catalogue, store: Store, _console: Console) -> Any:
    engines = engine_choice.installed()
    entry = known.named(options.model)
    (model,) = operations.describe(known, [entry], system.machines(store.root, engines), engines)
    return model


def _work(options: argparse.Namespace, known: Catalogue, _store: Store, console: Console) -> Any:
    entry = known.named(options.model)
    imported = options.verb == "import"
    work = operations.work(
        known,
        entry,
        options.verb,
        there=known.folder(entry.id),
        folder=options.folder.absolute() if imported else None,
        replace=imported and options.replace,
    )
    if work is None:
        return operations.own(known, entry)
    work = msgspec.structs.replace(work, engines=_asked_engines(options))
    progress = model_lines.Progress(console, options.verb, silent=options.json)
    return operations.result(work, worker.perform(work, progress.tell, _stop_on_interrupt))


def _asked_engines(options: argparse.Namespace) -> list[str]:
    """Return the engines that must be able to open what is downloaded or imported."""
    if options.verb == "verify":
        return []
    return engine_choice.asked_about_folders(engine_choice.choose_engine(options.engine))


def _prepare(options: argparse.Namespace, known: Catalogue, _store: Store, console: Console) -> Any:
    from locara_sidecar.cli.commands.prepare import prepare

    progress = model_lines.Progress(console, options.verb, silent=options.json)
    return prepare(
        known,
        known.named(options.model),
        engine=engine_choice.choose_engine(options.engine),
        quantization=options.quantization,
        precision=options.precision,
        tell=progress.tell,
    )


def _stop_on_interrupt(stop: Callable[[], None]) -> None:
    """Stop a download cleanly on Ctrl-C (what has arrived is kept), and at once on a second one."""

    def handler(*_: object) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, handler)


def _remove(options: argparse.Namespace, _known: Catalogue, store: Store, _console: Console) -> Any:
    # needs no catalogue that names it: the user may remove what an app with its own catalogue downloaded
    return operations.remove(store, options.model, only_prepared=options.prepared, dry_run=options.dry_run)


def _usage(_options: argparse.Namespace, _known: Catalogue, store: Store, _console: Console) -> Any:
    return operations.usage(store)


def _gc(options: argparse.Namespace, _known: Catalogue, store: Store, _console: Console) -> Any:
    return operations.gc(store, options.max_bytes, dry_run=options.dry_run)


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


def _show(console: Console, options: argparse.Namespace, shown: Any, store: Store) -> None:
    """Print for people what ``--json`` prints for programs."""
    from locara_sidecar.cli.output import tables

    engines = engine_choice.installed()
    lines: list[str] = []
    match options.verb:
        case "list":
            console.table(tables.of_list(shown.models, engines))
            lines = [] if engines else [tables.no_engine()]
        case "get":
            console.line(f"{shown.display_name} ({shown.id}, version {shown.version})\n{shown.description}\n")
            console.facts(tables.of_model(shown, engines))
        case "usage":
            if shown.entries:
                console.table(tables.of_usage(shown))
            lines = model_lines.of_usage(shown, str(store.root))
        case "download" | "import":
            lines = model_lines.of_installed(shown)
        case "prepare":
            lines = model_lines.of_prepared(shown)
        case "verify":
            lines = model_lines.of_verified(shown)
        case _:
            lines = model_lines.of_removed(shown, dry_run=options.dry_run)
    for line in lines:
        console.line(line)
