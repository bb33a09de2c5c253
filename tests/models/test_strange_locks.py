"""File systems where ``flock`` always succeeds or never does, or that are read-only: nothing published is truncated,
nothing in use is removed, a killed process's work is resumed, and nothing piles up.

``disk.lock_fd`` is the only place that locks; here it is replaced by the answers of such a file system.
"""

import contextlib
import errno
import os
import subprocess
import sys
import time

import pytest

from locara_sidecar.models.cache import aside, collect, disk, owner, partial, staging, survey
from locara_sidecar.models.lease import Leases
from support.model_store import download, entry_for, error_of, whole, write_model

ANSWERS = {"always": True, "never": None}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PLAY = """
import sys
from pathlib import Path
from locara_sidecar.models.cache import collect, disk, owner, partial, staging
from locara_sidecar.models.lease import Leases
from locara_sidecar.models.cache.store import Store
root, locks, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if locks != "real":
    disk.lock_fd = lambda fd, *, shared=False: {"always": True, "never": None}[locks]
store = Store(root)
store.prepare()
def wait():
    print("ready", flush=True)
    return input()
"""
DOWNLOAD = """
from locara_sidecar.models.downloads.download import Download
from support.model_store import QUICK, entry_for
Download(store, entry_for(), tell=lambda p: p.bytes > 70_000 and print("ready", flush=True), endpoint=key,
         patience=QUICK, token=False).run()
"""


@pytest.fixture(params=["always", "never"])
def locks(request, monkeypatch):
    monkeypatch.setattr(disk, "lock_fd", lambda fd, *, shared=False: ANSWERS[request.param])
    return request.param


@contextlib.contextmanager
def process(store, locks, script, key=""):
    """Start another process and wait until it is ``ready``; it ends when it may continue, or is killed at the end."""
    argv = [sys.executable, "-c", PLAY + script, str(store.root), locks, key]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        try:
            assert other.stdout.readline() == "ready\n"
            yield other
        finally:
            other.kill()
            other.wait()


def key_of(hub, path=WEIGHTS):
    return hub.repositories["org/mine"].files[path][1]


# --- nothing that was published is truncated ---------------------------------------------------


def test_what_one_process_publishes_another_one_that_had_the_same_part_cannot_cut(store, hub, locks):
    script = """
owner._places[:] = [("0" * 8, "1" * 8, "2" * 8)]  # of another machine: nobody here can tell whether it lives
part = partial.claim(store.incoming, key)
part.write(b"x" * 30_000)
wait()
part.reset()
part.write(b"other bytes")
part.close()
wait()
"""
    with process(store, locks, script, key_of(hub)) as other:
        entry = download(store, hub)
        size = (entry.folder / WEIGHTS).stat().st_size
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "ready\n"
    assert (entry.folder / WEIGHTS).stat().st_size == size
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("how", ["reset", "write"])
def test_a_file_that_has_a_second_name_is_neither_written_nor_cut(store, how):
    store.prepare()
    part = partial.claim(store.incoming, "a")
    part.write(b"published")
    os.link(part.path, store.blobs / "a")
    if how == "reset":
        part.reset()
    part.write(b" and more")
    assert (store.blobs / "a").read_bytes() == b"published"
    assert part.path.read_bytes() == (b"" if how == "reset" else b"published") + b" and more"
    part.sync()
    part.close()


def test_what_was_published_by_a_process_that_was_killed_before_it_let_go_is_not_written(store):
    """Killed between the second name and the end of the first. Not even by root, whom read-only does not stop."""
    store.prepare()
    with process(store, "real", "p = partial.claim(store.incoming, key); p.write(b'published'); wait()", "a"):
        pass
    (left,) = store.incoming.glob("*.part")
    os.link(left, store.blobs / "a")
    (store.blobs / "a").chmod(disk.READ_ONLY)
    part = partial.claim(store.incoming, "a")
    assert part.size == len(b"published")
    part.reset()
    part.write(b"wrong")
    part.close(delete=True)
    assert (store.blobs / "a").read_bytes() == b"published"
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("kind", ["real", "always", "never"])
def test_a_part_that_a_living_process_writes_is_left_to_it_whatever_locks_say(store, monkeypatch, kind):
    if kind != "real":
        monkeypatch.setattr(disk, "lock_fd", lambda fd, *, shared=False: ANSWERS[kind])
    with process(store, kind, "p = partial.claim(store.incoming, key); p.write(b'one'); wait()", "a"):
        assert partial.claim(store.incoming, "a") is None
        (left,) = store.incoming.glob("*.part")
        os.utime(left, (1, 1))
        collect.execute(store, collect.plan_gc(store, 0))
        assert left.exists(), "though it has not grown for long"
        os.utime(left, (1, time.time() - partial.SILENT_SECONDS - 60))  # it is alive but does nothing
        part = partial.claim(store.incoming, "a")
        assert (part.size, part.path != left, left.exists()) == (3, True, True), "a copy, then"
        part.close(delete=True)
    with contextlib.closing(partial.claim(store.incoming, "a")) as part:
        assert part.size == 3
        assert not left.exists()


# --- what was left is continued, and does not pile up --------------------------------------------


def test_without_locks_a_killed_download_goes_on_where_it_stopped_and_nothing_piles_up(store, hub, locks):
    for _ in range(3):
        hub.pace = 0.05
        with process(store, locks, DOWNLOAD, hub.url):
            pass
    parts = list(store.incoming.glob("*.part"))
    assert parts
    assert len({partial.key_of(part) for part in parts}) == len(parts), "one for each file"
    begun = {partial.key_of(part): part.stat().st_size for part in parts if part.stat().st_size}
    hub.pace = 0.0
    hub.log.clear()
    download(store, hub)
    for key, size in begun.items():
        asked = [request.headers.get("range") for request in hub.requests(key)]
        assert asked in ([f"bytes={size}-"], []), "what was complete is not asked for"
    assert whole(store) == ["mine"]
    assert [path.name for path in store.incoming.iterdir() if not path.name.startswith("tree-")] == []
    collect.execute(store, collect.plan_gc(store))
    assert list(store.incoming.iterdir()) == []


def test_what_several_left_of_the_same_bytes_goes_when_one_has_finished(store, ended, locks):
    store.prepare()
    for number, size in enumerate((3, 9, 5)):
        (store.incoming / f"a.{ended}.{number:012x}.part").write_bytes(b"0123456789"[:size])
    (store.incoming / "b.part").write_bytes(b"other")
    part = partial.claim(store.incoming, "a")
    assert part.size == 9, "the one that has most"
    part.close(delete=True)
    assert [path.name for path in store.incoming.iterdir()] == ["b.part"]


def test_a_part_of_bytes_that_are_there_is_collected_at_once(store, hub, locks):
    with process(store, locks, "p = partial.claim(store.incoming, key); p.write(b'one'); wait()", key_of(hub)) as other:
        (store.blobs / key_of(hub)).write_bytes(b"whole")
        assert collect.plan_gc(store).waste == []
        other.kill()
        other.wait()
        assert [path.suffix for path in collect.plan_gc(store).waste] == [".part"]


def test_what_is_being_put_together_stays_and_goes_when_its_process_was_killed(store, locks):
    script = "s = staging.Staging(store); (s.tree / 'a.json').write_bytes(b'{}'); wait()"
    with process(store, locks, script):
        (folder,) = store.incoming.glob("tree-*")
        for path in (folder, folder / "tree", folder / "tree" / "a.json"):
            os.utime(path, (1, time.time() - 30 * 24 * 3600))
        assert not survey.abandoned(folder)
        collect.sweep(store)
        collect.execute(store, collect.plan_gc(store, 0))
        assert folder.exists()
    collect.sweep(store)
    assert not folder.exists()


def test_bytes_that_a_killed_download_had_put_together_stay_for_its_next_try(store, locks):
    script = """
from locara_sidecar.models.cache import store as store_module
s = staging.Staging(store)
(store.blobs / ("a" * 64)).write_bytes(b'{}')
s.place(store_module.File("a.json", 2, "a" * 64))
wait()
"""
    with process(store, locks, script):
        (folder,) = store.incoming.glob("tree-*")
    collect.sweep(store)
    assert not folder.exists()
    assert (store.blobs / ("a" * 64)).read_bytes() == b"{}"


def test_a_tree_of_another_machine_stays_until_it_is_old(store, locks):
    with staging.Staging(store) as stage:
        (stage.folder / "lock").write_text("-".join(["0" * 8, "1" * 8, *owner.name().split("-")[2:]]))
        assert not survey.abandoned(stage.folder)
        old = time.time() - 48 * 3600
        for path in [*stage.folder.rglob("*"), stage.folder]:
            os.utime(path, (old, old))
        assert survey.abandoned(stage.folder)


# --- nothing in use is removed -----------------------------------------------------------------


def test_without_locks_a_model_in_use_stays_until_its_user_has_ended(store, hub, locks):
    entry = download(store, hub)
    with process(store, locks, "lock = store.use(key); wait()", entry.key):
        assert store.in_use(entry.key)
        assert collect.plan_gc(store, 0).models == []
        assert collect.execute(store, collect.Plan([entry], [], 0)).models == []
        assert error_of(collect.remove, store, collect.Plan([entry], [], 0), "mine").data["errno"] == "EBUSY"
        assert whole(store) == ["mine"]
    assert not store.in_use(entry.key)
    assert len(collect.execute(store, collect.plan_gc(store, 0)).models) == 1
    assert list(store.locks.glob(f"{entry.key}.*")) == []


NEIGHBOUR = "-".join([*owner.name().split("-")[:2], "0" * 8, "1", "1"])
STRANGER = "-".join(["0" * 8, "1" * 8, "2" * 8, "1", "1"])


@pytest.mark.parametrize(("name", "real", "strange"), [(NEIGHBOUR, False, True), (STRANGER, True, True)])
def test_who_cannot_be_seen_from_here_is_believed_unless_a_lock_that_is_heard_says_otherwise(
    store, hub, monkeypatch, name, real, strange
):
    entry = download(store, hub)
    store.use(entry.key).release()
    mark = store.locks / f"{entry.key}.{name}.0"
    mark.touch()
    assert store.in_use(entry.key) == real
    for answer in ANSWERS.values():
        with monkeypatch.context() as played:
            played.setattr(disk, "lock_fd", lambda fd, *, shared=False, answer=answer: answer)
            assert store.in_use(entry.key) == strange
    os.utime(mark, (1, 1))
    assert not store.in_use(entry.key), "nobody has left word for long"
    assert not mark.exists()


def test_who_comes_to_use_a_model_while_it_is_removed_has_it_or_is_told(store, hub, monkeypatch, locks):
    entry = download(store, hub)
    honest, taken = aside.set_aside, []

    def set_aside(*arguments):
        if not taken:
            taken.append(store.use(entry.key))  # after the remover's check, before the name is removed
        return honest(*arguments)

    monkeypatch.setattr(aside, "set_aside", set_aside)
    assert collect.execute(store, collect.Plan([entry], [], 0)).models == []
    assert whole(store) == ["mine"]
    taken[0].release()
    assert len(collect.execute(store, collect.Plan([entry], [], 0)).models) == 1
    assert store.use(entry.key) is None


def test_somebody_who_only_looks_whether_a_model_is_in_use_does_not_keep_others_from_using_it(store, hub, monkeypatch):
    entry = download(store, hub)
    looking = disk.try_lock(store.locks / entry.key, shared=False)
    monkeypatch.setattr(time, "sleep", lambda _: looking.release())
    lock = store.use(entry.key)
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("used_before", [True, False])
def test_who_may_only_read_the_cache_keeps_a_model_from_being_removed(store, hub, monkeypatch, used_before):
    entry = download(store, hub)
    if used_before:
        store.use(entry.key).release()
    honest = os.open

    def read_only(path, flags, *more, **others):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "read-only file system")
        return honest(path, flags, *more, **others)

    with monkeypatch.context() as seen:
        seen.setattr(os, "open", read_only)
        lock = store.use(entry.key)
    assert lock is not None
    assert lock.mark is None
    assert store.in_use(entry.key)
    assert collect.plan_gc(store, 0).models == []
    assert error_of(collect.remove, store, collect.plan_remove(store, "mine"), "mine").data["errno"] == "EBUSY"
    assert collect.execute(store, collect.Plan([entry], [], 0)).models == []
    assert whole(store) == ["mine"]
    lock.release()
    assert len(collect.execute(store, collect.plan_gc(store, 0)).models) == 1


# --- leases ------------------------------------------------------------------------------------


def test_without_locks_a_living_lease_counts_and_a_dead_one_does_not(store, locks):
    mine = Leases(store.root)
    with process(store, locks, "lease = Leases(root); lease.hold('big', 12345); wait()"):
        assert mine.reserved() == 12345
        assert mine.reserved() == 12345, "looking at it has not ended it"
    assert mine.reserved() == 0
    assert list((store.root / "leases").iterdir()) == []


def test_a_second_model_of_the_same_cache_is_not_disturbed(store, hub, tmp_path, locks):
    hub.add("org/two", write_model(tmp_path / "two", seed=2))
    first = download(store, hub)
    with process(store, locks, "lock = store.use(key); wait()", first.key):
        download(store, hub, entry_for("two", "org/two"))
        assert len(collect.execute(store, collect.plan_gc(store, 0)).models) == 1
        assert whole(store) == ["mine"]
