"""Power cuts, simulated: an ext4 in a loop device is shut down by its own ioctl while two processes publish models
and save images, then mounted again and every byte hashed.

This loses the contents of the page cache, like a real power cut; ``kill -9`` alone never shows that. The file
system's log is flushed first (names may outlive their bytes) or dropped (the last names are lost, too). Needs
Linux, root and loop devices; :func:`why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns import kills
from campaigns.cut_disk import MODES, Disk, why_not
from campaigns.report import Row
from locara_sidecar.capability.files.confined import ConfinedFolder
from locara_sidecar.capability.files.system import System
from locara_sidecar.models.cache import collect, disk, partial
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.cache.store import File, Origin, Store
from locara_sidecar.models.imports.importing import import_model
from support.granted_folders import grant_for
from support.model_store import entry_for, whole, write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1
_LONGEST = 0.4  # seconds until the cut
_SLOW_DISK = 5.0  # seconds that a promise may take
_PLANTED_CUTS = 40


class _ForgetsFiles(System):
    """A planted fault: file contents are not synced."""

    def sync(self, fd: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            return
        super().sync(fd)


class _ForgetsFolders(System):
    """A planted fault: folders are not synced."""

    def sync(self, fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            return
        super().sync(fd)


PLANTED: dict[str, type[System]] = {"files are not synced": _ForgetsFiles, "folders are not synced": _ForgetsFolders}
WHAT = ("models", "images")
_FINDS = (
    ("log flushed", "files are not synced"),
    ("log dropped", "files are not synced"),
    ("log dropped", "folders are not synced"),  # flushing the log keeps the names
)


# --- two processes, and what they say ----------------------------------------------------------


def _publish(store: Store, numbers: random.Random, count: int, tell: Callable[[str], object]) -> None:
    """Publish one more model, made of new bytes and existing ones; then perhaps remove some."""
    with Staging(store) as staging:
        for place in range(4):
            data = f"{count if place else 0} {place} ".encode() * numbers.randrange(200, 20_000)
            part = partial.claim(store.incoming, hashlib.sha256(data).hexdigest())
            assert part is not None
            part.write(data)
            part.sync()
            staging.adopt(part.path, File(f"part{place}.json", part.size, part.sha256))
            part.close(delete=True)
        tell(f"model {staging.publish(f'm{count}', '1', [Origin(imported=True)]).key}")
    if numbers.random() < 0.4:
        plan = collect.plan_gc(store, numbers.choice([None, 100_000, 1_000_000]))
        for entry in plan.models:
            tell(f"going {entry.key}")
        for entry in collect.execute(store, plan).models:
            tell(f"gone {entry.key}")


def _import(store: Store, count: int, tell: Callable[[str], object]) -> None:
    """Import a model from a Hugging Face cache that was just written and never synced."""
    source = write_model(store.root.parent / f"source{count}", t5=count, seed=count)
    repository = store.root.parent / f"hub{count}" / "models--org--mine"
    for path in [path for path in source.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        link = repository / "snapshots" / "c0ffee" / path.relative_to(source)
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    entry = import_model(store, entry_for(f"imported{count}"), repository.parent, lambda _: None)
    tell(f"model {entry.key}")


def _models(folder: Path, seed: str, tell: Callable[[str], object]) -> None:
    store, numbers = Store(folder / "cache"), random.Random(seed)
    for count in range(10**9):
        does = numbers.random()
        if does < 0.3:
            _import(store, count, tell)
        elif does < 0.5:
            if (form := kills.prepare(store, numbers)) is not None:
                tell(f"model {form.key}")
        else:
            _publish(store, numbers, count, tell)


def _picture(number: int, size: int) -> bytes:
    data = f"{number} ".encode() * size
    return hashlib.sha256(data).hexdigest().encode() + data


def _images(folder: Path, seed: str, tell: Callable[[str], object], system: System) -> None:
    numbers = random.Random(seed)
    kind: Any = numbers.choice(["anonymous", "named"])
    with ConfinedFolder(grant_for(folder / "pictures"), temporary=kind, system=system) as pictures:
        for count in range(10**9):
            data = _picture(count, numbers.randrange(100, 40_000))
            if count % 2:
                saved = pictures.save(f"day{count // 8}/picture.png", data, "rename")
                tell(f"image {saved.relative_path} {count}")
            else:
                pictures.save("latest.png", data, "overwrite")
                tell(f"latest {count}")


class _Saying:
    """What a child reports as done, one line each."""

    def __init__(self, fd: int) -> None:
        assert sys.platform != "win32"
        os.set_blocking(fd, False)
        self._fd = fd
        self._text = b""

    def wait_for_more(self, seconds: float) -> None:
        self._read()
        select.select([self._fd], [], [], seconds)

    def said(self) -> list[list[str]]:
        """Return everything that the child said until its end; the last piece is an unfinished line."""
        return [line.decode().split(" ") for line in self._text.split(b"\n")[:-1]]

    def close(self) -> None:
        self._read()
        os.close(self._fd)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                self._text += data


@contextlib.contextmanager
def _child(work: Callable[[Callable[[str], object]], None]) -> Iterator[_Saying]:
    """Run a process that works until it is killed at the end of the block."""
    assert sys.platform != "win32"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):  # the disk has no power
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            work(lambda line: os.write(writing, f"{line}\n".encode()))
        os._exit(0)
    os.close(writing)
    saying = _Saying(reading)
    try:
        yield saying
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saying.close()


# --- what must hold ----------------------------------------------------------------------------


class Found(Counter[str]):
    """What was counted: cuts, acknowledged, corrupt, lost."""


def _look_at_models(store: Store, said: list[list[str]], found: Found) -> None:
    try:
        whole(store)
    except (AssertionError, OSError) as error:
        found["corrupt"] += 1
        print(f"corrupt: {error}", file=sys.stderr)
    visible = {entry.key for entry in store.entries()}
    found["models acknowledged"] += sum(line[0] == "model" for line in said)
    found["removals acknowledged"] += sum(line[0] == "gone" for line in said)
    going = {line[1] for line in said if line[0] == "going"}
    found["lost"] += len({line[1] for line in said if line[0] == "model"} - going - visible)
    found["lost"] += len({line[1] for line in said if line[0] == "gone"} & visible)


def _look_at_images(folder: Path, said: list[list[str]], found: Found) -> None:
    numbers = dict[str, int]()
    for path in (path for path in folder.rglob("*.png") if path.is_file()):
        data = path.read_bytes()
        if hashlib.sha256(data[64:]).hexdigest().encode() != data[:64]:
            found["corrupt"] += 1
            print(f"corrupt: {path.name}, {len(data)} bytes", file=sys.stderr)
            continue
        numbers[path.relative_to(folder).as_posix()] = int(data[64:].split(b" ", 1)[0])
    images = {line[1]: int(line[2]) for line in said if line[0] == "image"}
    latest = max((int(line[1]) for line in said if line[0] == "latest"), default=-1)
    found["images acknowledged"] += sum(line[0] in ("image", "latest") for line in said)
    found["lost"] += sum(numbers.get(name) != number for name, number in images.items())
    found["lost"] += numbers.get("latest.png", -1) < latest


def cuts(
    disk_: Disk, mode: int, count: int, seed: int, *, models: System | None = None, images: System | None = None
) -> Found:
    """Cut the power ``count`` times at random moments.

    :param models: a broken way to the disk for models, ``images`` for images; then the first thing found is the last.
    """
    assert sys.platform != "win32"
    found, pauses = Found(), random.Random(seed)

    def publish(tell: Callable[[str], object]) -> None:
        disk._SYSTEM = models or System()
        _models(folder, f"{seed}-{number}", tell)

    def save(tell: Callable[[str], object]) -> None:
        _images(folder, f"{seed}-{number}", tell, images or System())

    for number in range(count):
        folder = disk_.folder / f"round{number}"
        (folder / "pictures").mkdir(parents=True)
        os.sync()
        with _child(publish) as publisher, _child(save) as saver:
            time.sleep(pauses.uniform(0.01, _LONGEST))
            if number % 2:  # the worst moment for a promise is right after it
                (publisher if number % 4 == 1 else saver).wait_for_more(_SLOW_DISK)
            disk_.cut(mode)
        disk_.restart()
        found["cuts"] += 1
        _look_at_models(Store(folder / "cache"), publisher.said(), found)
        _look_at_images(folder / "pictures", saver.said(), found)
        shutil.rmtree(folder)
        if (models or images) and found["corrupt"] + found["lost"]:
            break
    return found


def rows(where: Path, count: int, seed: int) -> list[Row]:
    """The campaign's rows: each mode, and each planted fault where it shows."""
    missing = why_not(where) if count else "not asked for"
    if missing:
        return [Row("power cuts", "skipped", "0", None, 0.0, f"cannot be mounted here: {missing}")]
    with tempfile.TemporaryDirectory(dir=where) as name, Disk(Path(name)) as disk_:
        table = [_row(disk_, words, count, seed) for words in MODES]
        return [*table, *(_planted(disk_, *fault, what, seed) for fault in _FINDS for what in WHAT)]


def _row(disk_: Disk, mode: str, count: int, seed: int) -> Row:
    began = time.monotonic()
    found = cuts(disk_, MODES[mode], count, seed)
    note = (
        f"{found['models acknowledged']} models, {found['images acknowledged']} images and "
        f"{found['removals acknowledged']} removals were acknowledged"
    )
    met = not found["corrupt"] + found["lost"] and found["models acknowledged"] > 0 < found["images acknowledged"]
    figure = f"{found['corrupt']} corrupt, {found['lost']} lost"
    return Row(f"{count} power cuts, {mode}", figure, "0, 0", met, time.monotonic() - began, note)


def _planted(disk_: Disk, mode: str, words: str, what: str, seed: int) -> Row:
    began = time.monotonic()
    found = cuts(disk_, MODES[mode], _PLANTED_CUTS, seed, **{what: PLANTED[words]()})
    caught = found["corrupt"] + found["lost"] > 0
    figure, note = "not caught", f"{what}, {mode}"
    if caught:
        figure = f"caught by cut {found['cuts']}"
        note += f": {found['corrupt']} corrupt, {found['lost']} lost"
    return Row(f"planted: {words}", figure, "caught", caught, time.monotonic() - began, note)
