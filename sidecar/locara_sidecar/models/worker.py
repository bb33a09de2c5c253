"""``python -m locara_sidecar.models.worker``: downloads, imports, verifies or publishes one model in a separate
process.

This keeps the daemon small (only this process imports huggingface_hub) and its ``ping`` fast, and a worker is stopped
by killing it. stdin: one line with a :class:`WorkerRequest`; when stdin ends, so does the process, however its parent
died. stdout: lines of :data:`Event`; the last one is Done or Failed.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import msgspec

from locara_protocol import wording
from locara_protocol.errors import RpcError
from locara_protocol.model_messages import DownloadProgress
from locara_sidecar.machine import own_files
from locara_sidecar.machine.processes import shortage
from locara_sidecar.machine.processes.child import start_thread
from locara_sidecar.machine.processes.trees import shown
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.catalogue import Entry
from locara_sidecar.models.imports.derive import Derivation
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_EVENT = 4 << 20
"""The longest event, in bytes, that the parent reads; has room for the names of all files that a model may have."""
_MAX_TEXT = 1024
"""The longest text in a report, in characters."""
_MAX_TRACE = 8192
"""Characters of a traceback, cut to its end; it may quote what a library says about a file."""


class WorkerRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What to do, for which model, in which cache.

    :param folder: import: where from; verify: a model that is not in the store, else None.
    :param replace: import: replace another model with that id.
    :param making: derive: what an engine has made.
    :param engines: download, import: one of them must be able to open the model. With none, nothing is checked.
    """

    op: Literal["download", "import", "verify", "derive"]
    root: str
    entry: Entry
    token: str | None = None
    folder: str | None = None
    making: Derivation | None = None
    replace: bool = False
    engines: list[str] = []


class ProgressFrame(msgspec.Struct, tag="told", frozen=True):
    """A progress report."""

    progress: DownloadProgress


class WorkerResult(msgspec.Struct, tag="done", frozen=True):
    """The last event of a successful run: digest, bytes and number of files of the model."""

    digest: str
    bytes: int
    files: int


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """``trace`` is for the log, never for the host."""

    kind: str
    message: str
    retryable: bool
    data: dict[str, Any]
    trace: str = ""


Event = ProgressFrame | WorkerResult | Failed


def perform(
    work: WorkerRequest, tell: Callable[[DownloadProgress], None], stops: Callable[[Callable[[], None]], None]
) -> WorkerResult:
    """Do the work, in this process. The command line calls this too.

    :param stops: called with a function that ends a download soon, from any thread.
    :raises RpcError: as the operations do.
    """
    store = Store(Path(work.root))

    def accept(folder: Path) -> None:
        from locara_sidecar.models.checks import check, engine_check

        check.check_guidance(work.entry, folder)
        engine_check.require(work.engines, work.entry, folder)

    if work.op == "download":
        from locara_sidecar.models.downloads import settings

        settings.check(work.token)  # before importing anything that reads these settings itself
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huggingface_hub's, about deprecated settings: nobody would see them
            from locara_sidecar.models.downloads.download import Download

        download = Download(store, work.entry, tell=tell, token=work.token, accept=accept)
        stops(download.stop)
        entry = download.run()
    elif work.op == "import":
        from locara_sidecar.models.imports.importing import import_model

        entry = import_model(store, work.entry, Path(work.folder or ""), tell, accept, replace=work.replace)
    elif work.op == "derive":
        from locara_sidecar.models.imports import derive

        assert work.making is not None
        entry = derive.publish(store, work.entry, work.making, tell)
    else:
        from locara_sidecar.models.checks.verify import verify, verify_folder

        if work.folder is not None:
            digest, files = verify_folder(store, Path(work.folder), work.entry.id, tell)
            return WorkerResult(digest, 0, files)
        found = store.find(work.entry.id)
        if found is None:
            raise RpcError("ModelNotInstalled", f"The model {work.entry.id} is not installed.", model=work.entry.id)
        verify(store, found, work.entry.id, tell, store.forms(found.meta.digest))
        entry = found
    return WorkerResult(entry.meta.digest, entry.meta.bytes, len(entry.meta.files))


def main() -> None:
    """Run one request and exit; the process ends at once when stdin does."""
    out = os.dup(1)
    os.dup2(2, 1)  # keep anything that a library prints out of the events

    def send(event: Event) -> None:
        data = memoryview(msgspec.json.encode(event) + b"\n")
        while data:
            data = data[os.write(out, data) :]

    line = sys.stdin.buffer.readline()
    try:
        start_thread(_end_with_stdin, name="stdin")  # here, since ending without a word would mean missing files
        work = msgspec.json.decode(line, type=WorkerRequest)
        send(perform(work, lambda progress: send(ProgressFrame(progress)), lambda _: None))
    except ImportError as error:
        _send_not_ours(send, f"it lacks {error.name or 'a module'}")
    except RpcError as error:
        send(fitting(Failed(error.kind, _shown(error.message), error.retryable, _shown(error.data))))
    except Exception as error:  # noqa: BLE001 -- the parent logs it; the host gets a fixed sentence
        if own_files.is_of_ours(error):
            _send_not_ours(send, "it lacks a file")
        lack = shortage.explained(error, ("StorageError",))
        if lack is not None:
            send(Failed(lack.kind, lack.message, lack.retryable, lack.data))
        else:
            send(Failed("InternalError", "", False, {}, shown(traceback.format_exc())[-_MAX_TRACE:]))
    os._exit(0)


def _send_not_ours(send: Callable[[Event], None], what: str) -> NoReturn:
    missing = not_ours(what)
    send(Failed(missing.kind, missing.message, missing.retryable, missing.data))
    os._exit(0)


def fitting(failed: Failed) -> Failed:
    """Return the same failure within :data:`MAX_EVENT`: lists of too many names are cut to their beginning."""
    while len(msgspec.json.encode(failed)) > MAX_EVENT:
        data = {name: _half(value) for name, value in failed.data.items()}
        if data == failed.data:
            return msgspec.structs.replace(failed, data={})
        failed = msgspec.structs.replace(failed, data=data)
    return failed


def _half(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    names = cast("list[Any]", value)
    return names[: len(names) // 2]


def _shown(value: Any) -> Any:
    """Replace invalid UTF-8 in what is reported, and cut what is too long for a message: names from a model's files."""
    match value:
        case str():
            return wording.shown(shown(value), _MAX_TEXT)
        case list():
            return [_shown(item) for item in cast("list[Any]", value)]
        case dict():
            return {_shown(name): _shown(item) for name, item in cast("dict[Any, Any]", value).items()}
        case _:
            return value


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
