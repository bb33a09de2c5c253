"""SIGKILL at random moments: several processes download, publish, prepare, collect and remove in one store, are killed,
and everything visible is hashed; then the downloads are resumed and must end with the model that was served.

Syncing is left out: a kill leaves the page cache as it is (``powercut.py`` is about the disk). Needs fork.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from campaigns.processes import children, hub_process
from campaigns.report import Row
from locara_protocol.errors import RpcError
from locara_sidecar.ipc.frames import PREPARED_LAYOUT
from locara_sidecar.models.cache import aside, collect, disk, partial, staging
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.cache.store import DerivedFrom, File, Installed, Origin, Store
from locara_sidecar.models.downloads import download, transfer
from locara_sidecar.models.imports import derive
from support.granted_folders import NoSync
from support.model_store import entry_for, safetensors, whole, write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MODELS = 3
_SIZE = 300_000
_LONGEST = 0.4  # seconds until the first kill
_PLANTED_ROUNDS = 60
_FAST = transfer.RetryPolicy(connect=5, read=10, tries=6, first_wait=0.01, longest_wait=0.1)

# --- what the processes do ---------------------------------------------------------------------


def _download(store: Store, numbers: random.Random) -> None:
    with removed_at_once():
        fetch(store, numbers.randrange(_MODELS))
    time.sleep(0.002)


def fetch(store: Store, which: int) -> Installed:
    """Download one of the hub's models into the store."""
    entry = entry_for(f"m{which}", f"org/m{which}")
    endpoint = os.environ["HF_ENDPOINT"]  # huggingface_hub reads it at import, before the hub existed
    return download.Download(store, entry, tell=_quiet, endpoint=endpoint, patience=_FAST, token=False).run()  # type: ignore[arg-type]


@contextlib.contextmanager
def removed_at_once() -> Iterator[None]:
    """Ignore the error that publishing gives if somebody removed the model immediately, and nothing else."""
    try:
        yield
    except RpcError as error:
        if error.data.get("errno") != "EBUSY":
            raise


def _quiet(_: object) -> None:
    pass


def publish(store: Store, numbers: random.Random) -> None:
    """Publish one of a few models from bytes of our own; two processes may do it at the same time."""
    which = numbers.randrange(4)
    with staging.Staging(store) as stage:
        for place in range(5):
            data = f"{which if place else 0} {place}".encode() * 3000
            part = partial.claim(store.incoming, f"own-{which}-{place}")
            if part is None:
                return
            part.reset()
            for start in range(0, len(data), 4096):
                part.write(data[start : start + 4096])
            part.sync()
            stage.adopt(part.path, File(f"part{place}.json", part.size, part.sha256))
            part.close(delete=True)
        with removed_at_once():
            stage.publish(f"own{which}", "1", [Origin(imported=True)])


def prepare(store: Store, numbers: random.Random) -> Installed | None:
    """Publish a prepared form of one of the models, from files that an engine might have written; None if there is
    nothing to prepare."""
    there = [entry for entry in store.entries() if entry.meta.ids and "transformer/config.json" in paths(entry)]
    source = numbers.choice(there) if there else None
    lock = None if source is None else store.use(source.key)
    if source is None or lock is None:
        time.sleep(0.002)
        return None
    bits = numbers.choice(["4bit", "8bit"])
    with disk.held(lock), staging.Staging(store) as stage:
        made = stage.folder / derive.MADE / "transformer"
        made.mkdir(parents=True)
        (made / "config.json").write_text(f'{{"quantization": "{bits}"}}')
        with (made / "weights.safetensors").open("wb") as file:
            data = safetensors(_SIZE // 4, seed=f"{source.key} {bits}")
            for start in range(0, len(data), 4096):
                file.write(data[start : start + 4096])
        making = derive.Derivation(
            folder=str(stage.folder),
            source=str(source.folder),
            components=["transformer"],
            derived_from=DerivedFrom(
                digest=source.meta.digest,
                model=source.meta.ids[0],
                engine="mlx",
                quantization=msgspec.convert(bits, Literal["8bit", "4bit"]),
                precision="bfloat16",
                layout=PREPARED_LAYOUT,
            ),
        )
        with removed_at_once():
            return derive.publish(store, entry_for(source.meta.ids[0]), making, _quiet)
    return None


def paths(entry: Installed) -> set[str]:
    return {file.path for file in entry.meta.files}


def gc(store: Store, numbers: random.Random) -> None:
    """Collect down to some size, or only what nobody needs."""
    collect.execute(store, collect.plan_gc(store, numbers.choice([None, None, 0, 1_000_000, 2_000_000])))


def remove(store: Store, numbers: random.Random) -> None:
    """Remove one of the installed models by name."""
    there = [name for entry in store.entries() for name in entry.meta.ids]
    if there:
        name = numbers.choice(there)
        with contextlib.suppress(RpcError):  # gone in the meantime, or in use
            collect.remove(store, collect.plan_remove(store, name), name)
    time.sleep(0.002)


ROLES: dict[str, Callable[[Store, random.Random], object]] = {
    "download": _download,
    "publish": publish,
    "prepare": prepare,
    "gc": gc,
    "remove": remove,
}


# --- planted faults ----------------------------------------------------------------------------


def _bytes_first() -> None:
    def set_aside(store: Store, key: str) -> None:
        for file in sorted((store.models / key).rglob("*.json")):
            if file.name != "meta.json":
                file.unlink(missing_ok=True)
                time.sleep(0.001)
        shutil.rmtree(store.models / key, ignore_errors=True)

    aside.set_aside = set_aside  # type: ignore[assignment]


def _named_before_complete() -> None:
    honest = partial.claim

    def claim(incoming: Path, key: str) -> partial.Partial | None:
        part = honest(incoming, key)
        if part is not None and len(key) == 64:
            with contextlib.suppress(FileExistsError):
                os.link(part.path, incoming.parent / "blobs" / key)
        return part

    partial.claim = claim


def _file_by_file() -> None:
    honest = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(target).parent.name != "models":
            honest(source, target)
            return
        os.mkdir(target)
        for path in sorted(Path(source).rglob("*"), key=lambda path: path.name != "meta.json"):
            if path.is_file():
                place = Path(target) / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                honest(path, place)
                time.sleep(0.001)

    os.rename = rename  # type: ignore[assignment]


def _half_is_enough() -> None:
    honest = transfer.Transfer.fetch

    def fetch_(self: transfer.Transfer, remote: Any, part: partial.Partial) -> None:
        if not part.size:
            honest(self, remote, part)

    transfer.Transfer.fetch = fetch_  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "bytes are deleted before the name": _bytes_first,
    "a file has its name before its bytes": _named_before_complete,
    "a model is published file by file": _file_by_file,
    "an unfinished file is taken as it is": _half_is_enough,
}


# --- rounds ------------------------------------------------------------------------------------


def rounds(
    where: Path, served: dict[int, str], kills: int, seed: int, plant: Callable[[], None] | None = None
) -> Counter[str]:
    """Kill ``kills`` processes; with a planted fault the first thing found is the last.

    :param served: the digests of the hub's models.
    """
    disk._SYSTEM = NoSync()
    store, numbers, found = Store(where), random.Random(seed), Counter[str]()
    store.prepare()

    def worker(role: str, which: int) -> Callable[[], object]:
        def run() -> None:
            if plant is not None:
                plant()
            mine = random.Random(f"{seed} {found['killed']} {role} {which}")
            while True:
                ROLES[role](store, mine)

        return run

    while found["killed"] < kills:
        for which in served:
            if numbers.random() < 0.7:  # or there is nothing to download
                with contextlib.suppress(RpcError):
                    collect.remove(store, collect.plan_remove(store, f"m{which}"), f"m{which}")
        _kill(worker, numbers, found)
        _look(store, found, "after a kill")
        found["left unfinished"] += any(path.stat().st_size for path in store.incoming.glob("*.part"))
        if numbers.random() < 0.5 or found["killed"] >= kills:
            _resume(store, served, found, plant)
        if plant is not None and found["broken"] + found["not resumed"]:
            break
    return found


def _kill(worker: Callable[[str, int], Callable[[], object]], numbers: random.Random, found: Counter[str]) -> None:
    """Run four processes and kill each at its own moment."""
    assert sys.platform != "win32"
    roles = ["download", *numbers.choices(list(ROLES), k=3)]
    with children([worker(role, which) for which, role in enumerate(roles)]) as pids:
        time.sleep(numbers.uniform(0.01, _LONGEST))
        for pid, role in numbers.sample(list(zip(pids, roles, strict=True)), len(roles)):
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            # a process that ended by itself met an error that must not occur
            found["broken"] += not os.WIFSIGNALED(status)
            found["killed"] += 1
            found[role] += 1
            time.sleep(numbers.uniform(0, 0.01))


def _look(store: Store, found: Counter[str], when: str) -> None:
    try:
        whole(Store(store.root))
    except (AssertionError, OSError) as error:
        found["broken"] += 1
        if found["broken"] < 4:
            print(f"{when}: {error}", file=sys.stderr)


def _resume(store: Store, served: dict[int, str], found: Counter[str], plant: Callable[[], None] | None) -> None:
    def run() -> None:
        if plant is not None:
            plant()
        for which, digest in served.items():
            assert fetch(store, which).meta.digest == digest

    with children([run]) as (pid,):
        _, status = os.waitpid(pid, 0)
    found["resumed"] += len(served)
    found["not resumed"] += status != 0
    _look(store, found, "after resuming")


def rows(where: Path, kills: int, seed: int, planted: Iterable[str] = tuple(PLANTED)) -> list[Row]:
    """The campaign's rows; ``kills`` processes are killed, and a few for each planted fault."""
    folders = [write_model(where / f"m{n}", t5="shared", seed=n, size=_SIZE) for n in range(_MODELS)]
    served = {n: model_digest(folder) for n, folder in enumerate(folders)}
    with hub_process({f"org/m{n}": folder for n, folder in enumerate(folders)}, where, pace=0.006):
        began = time.monotonic()
        found = rounds(where / "store", served, kills, seed)
        note = ", ".join(f"{found[role]} in {role}" for role in ROLES) + f"; {found['left unfinished']} left a part"
        table = [
            Row("kills: partial or corrupt", f"{found['broken']} of {found['killed']}", "0", not found["broken"],
                time.monotonic() - began, note),
            Row("downloads that end on resume", f"{found['resumed'] - found['not resumed']} of {found['resumed']}",
                "all", found["resumed"] > 0 == found["not resumed"], 0.0),
        ]  # fmt: skip
        for words in planted:
            plant = PLANTED[words]
            began = time.monotonic()
            found = rounds(where / f"planted-{plant.__name__}", served, 4 * _PLANTED_ROUNDS, seed, plant)
            caught = found["broken"] + found["not resumed"] > 0
            figure = f"caught by kill {found['killed']}" if caught else "not caught"
            table.append(Row(f"planted: {words}", figure, "caught", caught, time.monotonic() - began))
    return table
