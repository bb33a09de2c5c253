"""What is visible is complete, what is in use stays, and bytes are removed after the names that lead to them."""

import json
import os
import re
import stat
import subprocess
import sys
import time

import pytest

from locara_sidecar.models import worker
from locara_sidecar.models.cache import collect, partial, staging, survey
from locara_sidecar.models.cache.digest import META, model_digest
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.cache.store import Origin
from locara_sidecar.models.checks import check
from locara_sidecar.models.checks.verify import verify, verify_folder
from locara_sidecar.models.lease import Leases
from locara_sidecar.weights import text_files
from support.hub import COMMIT
from support.model_store import download, entry_for, error_of, take, whole, write_model
from support.prepared_forms import prepare


def install(store, hub, tmp_path, number, t5="shared"):
    hub.add(f"org/m{number}", write_model(tmp_path / f"m{number}", t5=t5, seed=number))
    return download(store, hub, entry_for(f"m{number}", f"org/m{number}"))


def quiet(_):
    pass


def test_meta_says_what_the_model_is_where_it_is_from_and_when_it_was_installed_and_used(store, hub):
    entry = download(store, hub)
    meta = json.loads((entry.folder / "meta.json").read_text())
    assert set(meta) == {
        *("format", "ids", "version", "digest", "source", "files", "bytes", "installed", "damaged", "derivedFrom"),
    }
    assert (meta["ids"], meta["version"], meta["digest"]) == (["mine"], "2", f"sha256:{entry.folder.name}")
    assert meta["source"] == [{"repository": "org/mine", "revision": COMMIT}]
    assert meta["bytes"] == sum(file["size"] for file in meta["files"])
    assert {file["path"] for file in meta["files"]} == {
        path.relative_to(entry.folder).as_posix()
        for path in entry.folder.rglob("*")
        if path.is_file() and path.name != "meta.json"
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["installed"])
    os.utime(entry.folder / "meta.json", (1, 1))
    before = time.time()
    store.use(entry.key).release()
    assert store.find("mine").last_used >= before - 1


@pytest.mark.parametrize("looks", [1, 2])
def test_planning_a_removal_survives_that_another_process_removes_the_model_meanwhile(
    store, hub, tmp_path, monkeypatch, looks
):
    one = install(store, hub, tmp_path, 1)
    seen = [[one]] * looks  # how often the store lists the model before it is gone
    monkeypatch.setattr(type(store), "entries", lambda self: seen.pop() if seen else [])
    assert [entry.key for entry in collect.plan_remove(store, "m1").models] == [one.key]


def test_removing_a_model_leaves_the_bytes_that_another_needs(store, hub, tmp_path):
    one, two = install(store, hub, tmp_path, 1), install(store, hub, tmp_path, 2)
    shared = (one.folder / "text_encoder/model.safetensors").stat().st_size
    plan = collect.plan_remove(store, "m1")
    before = survey.usage(store).bytes
    removed = collect.remove(store, plan, "m1")
    assert removed.bytes == plan.bytes == before - survey.usage(store).bytes
    assert removed.bytes < one.meta.bytes - shared + 4096
    assert whole(store) == ["m2"]
    verify(store, two, "m2", quiet)
    (weights,) = [file for file in two.meta.files if file.path == "text_encoder/model.safetensors"]
    assert store.has_blob(weights.sha256, weights.size), "a third model needs no download of them"


def test_a_dry_run_changes_nothing(store, hub):
    download(store, hub)
    plan = collect.plan_gc(store, 0)
    assert [entry.meta.ids for entry in plan.models] == [["mine"]]
    assert plan.bytes == survey.usage(store).bytes == survey.usage(store).reclaimable
    assert whole(store) == ["mine"]


def test_a_model_in_use_by_any_process_is_neither_collected_nor_removed(store, hub):
    entry = download(store, hub)
    script = (
        "import sys; from pathlib import Path; from locara_sidecar.models.cache.store import Store;"
        "lock = Store(Path(sys.argv[1])).use(sys.argv[2]); print(lock is not None, flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", script, str(store.root), entry.key]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout.readline() == "True\n"
        assert store.in_use(entry.key)
        assert collect.plan_gc(store, 0).models == []
        assert collect.execute(store, collect.plan_gc(store, 0)).models == []
        # a plan made before the model was in use
        stale = collect.Plan([entry], [], 0)
        assert collect.execute(store, stale).models == []
        error = error_of(collect.remove, store, stale, "mine")
        assert (error.kind, error.data["errno"]) == ("StorageError", "EBUSY")
        assert whole(store) == ["mine"]
        user.stdin.close()
    assert not store.in_use(entry.key)
    assert len(collect.execute(store, collect.plan_gc(store, 0)).models) == 1
    assert store.use(entry.key) is None
    assert survey.usage(store).bytes == 0


def test_the_least_recently_used_goes_first(store, hub, tmp_path):
    entries = [install(store, hub, tmp_path, number, t5=number) for number in (1, 2, 3)]
    for age, entry in zip((5, 50, 500), entries, strict=True):
        os.utime(entry.folder / "meta.json", (time.time() - age, time.time() - age))
    lock = store.use(entries[2].key)  # using it makes it the youngest
    lock.release()
    room = survey.usage(store).bytes - 1
    assert [entry.meta.ids for entry in collect.plan_gc(store, room).models] == [["m2"]]
    collect.execute(store, collect.plan_gc(store, entries[2].meta.bytes + 8192))
    assert whole(store) == ["m3"]


def test_waste_is_kept_for_the_next_try_until_it_is_old_or_room_is_asked_for(store, hub):
    hub.fail("/cdn/", "cut", at=30_000)
    error_of(download, store, hub)
    assert collect.plan_gc(store).waste == []
    later = time.time() + collect.KEEP_PARTIAL_SECONDS + 60
    assert collect.plan_gc(store, now=later).waste
    collect.execute(store, collect.plan_gc(store, 0))
    assert survey.usage(store).bytes == 0


def test_a_damaged_model_is_named_withdrawn_and_mended_by_the_next_download(store, hub):
    entry = download(store, hub)
    victim = entry.folder / "transformer/diffusion_pytorch_model.safetensors"
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    error = error_of(verify, store, entry, "mine", quiet)
    assert error.kind == "IntegrityError"
    assert error.data["files"] == ["transformer/diffusion_pytorch_model.safetensors"]
    assert store.find("mine") is None
    mended = download(store, hub)
    assert mended.key == entry.key
    verify(store, mended, "mine", quiet)
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("change", ["missing", "extra", "link"])
def test_verifying_finds_what_is_missing_added_or_a_link(store, hub, tmp_path, change):
    entry = download(store, hub)
    file = entry.folder / "transformer/config.json"
    if change == "extra":
        (entry.folder / "attack.py").write_text("")
    else:
        data = file.read_bytes()
        file.unlink()
        if change == "link":
            (tmp_path / "config.json").write_bytes(data)
            file.symlink_to(tmp_path / "config.json")
    error = error_of(verify, store, entry, "mine", quiet)
    assert error.data["files"] == ["attack.py" if change == "extra" else "transformer/config.json"]


def test_verifying_names_so_many_added_files_as_can_be_told_and_recorded(store, hub):
    """Anybody who may write to the cache can add files without end; the model's own were not recorded then."""
    entry = download(store, hub)
    inner = entry.folder.joinpath(*["\u4e00" * 80] * 6)
    inner.mkdir(parents=True)
    for number in range(2500):
        (inner / f"{number}{'x' * 100}.json").touch()
    error = error_of(verify, store, entry, "mine", quiet)
    assert error.kind == "IntegrityError"
    assert error.message.startswith("At least 1000 files of mine differ")
    assert len(error.data["files"]) == 1000
    assert store.entry(entry.key).meta.damaged
    assert store.find("mine", damaged=True) is not None
    assert download(store, hub).key == entry.key
    assert whole(store) == ["mine"]


@pytest.mark.slow
def test_a_model_with_the_longest_names_that_are_allowed_is_installed_and_every_file_can_be_told_as_damaged(
    store, tmp_path
):
    names = [f"text/{number:04}" + '"' * 110 + ".txt" for number in range(check.MAX_FILES - 5)]
    folder = write_model(tmp_path / "mine", extra=dict.fromkeys(names, b"x"))
    entry = take(store, folder, entry_for(source={}))
    assert len(entry.meta.files) == check.MAX_FILES
    for name in names:
        (entry.folder / name).chmod(0o644)
        (entry.folder / name).write_bytes(b"y")
    error = error_of(verify, store, entry, "mine", quiet)
    assert sorted(error.data["files"]) == sorted(names)
    failed = worker.Failed(error.kind, worker._shown(error.message), False, worker._shown(error.data))
    assert worker.fitting(failed) == failed
    assert (entry.folder / META).stat().st_size < text_files._MOST
    assert store.find("mine") is None
    assert store.find("mine", damaged=True).meta.damaged == sorted(names)
    assert take(store, folder, entry_for(source={})).key == entry.key


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0, 0o022])
def test_nobody_else_may_write_to_the_cache_whatever_the_umask(store, hub, tmp_path, umask):
    before = os.umask(umask)
    try:
        model = download(store, hub)
        prepare(store, model)
        hub.fail("/cdn/", "cut", at=30_000)
        hub.add("org/other", write_model(tmp_path / "other", seed=9, t5=9))
        error_of(download, store, hub, entry_for("other", "org/other"))
        leases = Leases(store.root)
        leases.hold("mine", 1)
        used = store.use(model.key)
        stage = Staging(store)
        there = [store.root, *store.root.rglob("*")]
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in there}
        stage.__exit__()
        used.release()
        leases.release()
    finally:
        os.umask(before)
    assert any(path.suffix == ".part" for path in modes)
    assert {path.parent for path in modes} >= {store.blobs, store.models, store.incoming, store.locks}
    assert [f"{path} {mode:o}" for path, mode in modes.items() if mode & 0o022] == []


def test_verifying_a_folder_of_the_hosts_tells_how_far_it_is(store, tmp_path):
    told = []
    folder = write_model(tmp_path / "mine")
    digest, files = verify_folder(store, folder, "mine", told.append)
    assert (digest, files) == (model_digest(folder), 5)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert (told[-1].bytes, told[-1].total_bytes, told[-1].files) == (size, size, 5)


def test_a_foreign_or_newer_meta_is_no_model(store, hub):
    entry = download(store, hub)
    other = store.models / ("0" * 64)
    other.mkdir()
    (other / "meta.json").write_bytes((entry.folder / "meta.json").read_bytes())
    assert [found.key for found in store.entries()] == [entry.key]
    meta = json.loads((entry.folder / "meta.json").read_text())
    (entry.folder / "meta.json").write_text(json.dumps({**meta, "format": 2}))
    assert store.entries() == []


def test_bytes_that_a_model_has_taken_since_the_plan_are_not_collected(store, hub):
    files = hub.repositories["org/mine"].files
    hub.fail(f"/cdn/{files['transformer/diffusion_pytorch_model.safetensors'][1]}", "cut", at=30_000)
    error_of(download, store, hub)
    plan = collect.plan_gc(store, 0)
    taken = store.blob(files["text_encoder/model.safetensors"][1])
    assert taken in plan.waste
    hub.faults.clear()
    download(store, hub)
    collect.execute(store, plan)
    assert taken.exists()
    assert whole(store) == ["mine"]


def test_a_part_that_was_taken_up_after_the_plan_is_not_collected(store, hub):
    hub.fail("/cdn/", "cut", at=30_000)
    error_of(download, store, hub)
    plan = collect.plan_gc(store, 0)
    (path,) = [path for path in plan.waste if path.suffix == ".part" and path.stat().st_size == 30_000][:1]
    part = partial.claim(store.incoming, partial.key_of(path))
    assert part.size == 30_000
    later = collect.plan_gc(store, 0)
    for made_then in (plan, later):
        collect.execute(store, made_then)
        assert part.path.exists()
        assert part.path.with_suffix(".json").exists()
    part.close()
    collect.execute(store, collect.plan_gc(store, 0))
    assert not part.path.exists()


def test_bytes_that_a_model_needs_are_never_waste(store, hub):
    download(store, hub)
    later = time.time() + collect.KEEP_PARTIAL_SECONDS + 60
    assert collect.plan_gc(store, now=later) == collect.Plan([], [], 0)


@pytest.mark.parametrize("how", ["remove", "gc"])
def test_nothing_is_deleted_while_its_name_is_visible(store, hub, monkeypatch, how):
    download(store, hub)
    deleted = []
    for owner, name in ((collect, "remove_tree"), (collect.Path, "unlink"), (os, "unlink")):
        real = getattr(owner, name)

        def watched(path, *arguments, real=real, **more):
            deleted.append(os.fspath(path))
            assert store.find("mine") is None
            return real(path, *arguments, **more)

        monkeypatch.setattr(owner, name, watched)
    if how == "remove":
        collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    else:
        collect.execute(store, collect.plan_gc(store, 0))
    assert deleted
    assert not any(path.startswith(str(store.models)) for path in deleted)


def test_a_part_that_another_process_takes_up_at_the_same_moment_is_left_to_it(store, monkeypatch):
    store.prepare()
    first = partial.claim(store.incoming, "a")
    first.write(b"bytes")
    first.close()
    honest, faster = os.rename, []

    def rename(old, new):
        if not faster:
            faster.append(None)
            faster[0] = partial.claim(store.incoming, "a")
        honest(old, new)

    monkeypatch.setattr(partial.os, "rename", rename)
    assert partial.claim(store.incoming, "a") is None
    faster[0].write(b", more")
    assert faster[0].path.read_bytes() == b"bytes, more"
    faster[0].close(delete=True)
    assert list(store.incoming.iterdir()) == []


def test_a_part_has_one_writer(store):
    store.prepare()
    part = partial.claim(store.incoming, "a")
    assert partial.claim(store.incoming, "a") is None
    part.close()
    again = partial.claim(store.incoming, "a")
    assert again is not None
    again.close()


def test_what_the_killed_leave_behind_is_collected(store, ended):
    stage = staging.Staging(store)
    (stage.tree / "a.json").write_bytes(b"{}")
    stage._lock.release()
    (stage.folder / "lock").write_text(ended)
    old = time.time() - 3600
    os.utime(stage.tree.parent, (old, old))
    assert collect.execute(store, collect.plan_gc(store)).bytes == 2 + len(ended)
    assert list(store.incoming.iterdir()) == []


def test_without_hard_links_the_bytes_are_copied(store, monkeypatch, hub):
    def no_links(*_):
        raise OSError(95, "no links here")

    monkeypatch.setattr(partial.os, "link", no_links)
    entry = download(store, hub)
    assert whole(store) == ["mine"]
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    collect.execute(store, collect.plan_gc(store, 0))
    assert survey.usage(store).bytes == 0
    assert Origin(repository="org/mine", revision=entry.meta.source[0].revision) == entry.meta.source[0]
