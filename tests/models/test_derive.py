"""Prepared forms in the store: checked like any model, stored once where they share its files, removed with it."""

import json
import os
import shutil
import stat
import time
from pathlib import Path

import msgspec
import pytest

from locara_sidecar.ipc.frames import PREPARED_LAYOUT
from locara_sidecar.machine.processes import trees
from locara_sidecar.models.cache import collect, disk, staging, survey
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.checks import check
from locara_sidecar.models.checks.verify import verify
from locara_sidecar.models.forms import forms_for, usable
from locara_sidecar.models.imports import derive
from locara_sidecar.models.imports.importing import import_model
from locara_sidecar.models.model_specs import model_spec
from locara_sidecar.models.worker import WorkerRequest, perform
from support.evil import making as evil
from support.model_store import download, entry_for, error_of, safetensors, whole, write_model
from support.prepared_forms import WEIGHTS, made_files, making, origin, prepare, quiet


@pytest.fixture
def model(store, tmp_path):
    return import_model(store, entry_for(), write_model(tmp_path / "mine"), quiet)


def test_a_form_is_an_entry_of_its_own_that_shares_what_it_has_of_its_model(store, model):
    form = prepare(store, model)
    assert form.meta.digest != model.meta.digest
    assert form.derived_from == origin(model.meta.digest)
    assert {file.path for file in form.meta.files} == {
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        *made_files(),
    }
    for path in ("text_encoder/model.safetensors", "model_index.json"):
        assert os.path.samefile(form.folder / path, model.folder / path)
    assert json.loads((form.folder / "meta.json").read_bytes())["derivedFrom"]["digest"] == model.meta.digest
    assert (form.folder / WEIGHTS).stat().st_mode & 0o222 == 0
    assert whole(store) == ["mine"]
    assert list(store.incoming.iterdir()) == []
    verify(store, model, "mine", quiet, [form])


def test_a_form_is_not_taken_for_its_model(store, model):
    form = prepare(store, model)
    assert store.find("mine").key == model.key
    assert [entry.key for entry in store.forms(model.meta.digest)] == [form.key]
    assert store.forms(form.meta.digest) == []
    collect.remove(store, collect.plan_remove(store, "mine", only_prepared=True), "mine")
    assert store.find("mine").key == model.key


def test_forms_of_another_digest_or_layout_are_not_used(store, model, tmp_path):
    form = prepare(store, model)
    prepare(store, model, bits="8bit", layout=PREPARED_LAYOUT + 1)
    assert [entry.key for entry in usable(store.entries())] == [form.key]
    other = import_model(store, entry_for("other"), write_model(tmp_path / "other", seed=9), quiet)
    assert store.forms(other.meta.digest) == []


def test_a_job_is_offered_the_forms_of_its_very_model_engine_and_numbers(store, model):
    form = prepare(store, model)

    def offered(engine="mlx", **changes):
        asked = {"digest": model.meta.digest, "quantization": "4bit", "precision": "bfloat16", **changes}
        spec = model_spec(entry_for(), folder=str(model.folder), **asked)
        return [one.path for one in forms_for(store.entries(), spec, engine)]

    for changes in ({}, {"quantization": "auto"}, {"precision": "auto"}):
        assert offered(**changes) == [str(form.folder)]
    others = ({"engine": "torch"}, {"digest": "sha256:0"}, {"quantization": "8bit"}, {"precision": "float32"})
    for changes in others:
        assert offered(**changes) == [], changes


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("transformer/lies.safetensors", safetensors(100)[:-1], "IntegrityError"),
        ("transformer/attack.py", b"", "IntegrityError"),
        ("transformer/weights.bin", b"", "IntegrityError"),
        ("text_encoder/config.json", b"{}", "IntegrityError"),
        ("model_index.json", b"{}", "IntegrityError"),
        ("transformer/deep/config.json", b"{}", "IntegrityError"),
        ("transformer/config.json", b'{"auto_map": "x.y"}', "IntegrityError"),
        ("transformer/a.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}', "IntegrityError"),
        ("transformer/a.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "ModelIncomplete"),
    ],
)
def test_what_an_engine_should_not_have_made_is_refused_and_nothing_is_visible(store, model, path, data, kind):
    error = error_of(prepare, store, model, {**made_files(), path: data})
    assert error.kind == kind
    if not path.startswith("transformer/"):
        assert "in the wrong place" in str(error)  # of all reasons to refuse it, the first
    assert [entry.key for entry in store.entries()] == [model.key]
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("what", evil.MADE)
def test_what_an_engine_in_a_strangers_hands_makes_is_refused_and_nothing_is_visible(store, model, tmp_path, what):
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(safetensors(10))
    with making(store, model.folder, model.meta.digest) as made:
        evil.MADE[what](Path(made.folder, "made", "transformer"), secret)
        assert error_of(derive.publish, store, entry_for(), made, quiet).kind in ("IntegrityError", "StorageError")
        if "within" in what:
            trees.remove_tree(Path(made.folder, "made"))
    assert [entry.key for entry in store.entries()] == [model.key]


@pytest.mark.parametrize("where", ["transformer/link.safetensors", "text_encoder"])
def test_a_link_that_an_engine_made_is_never_followed(store, model, tmp_path, where):
    (tmp_path / "secret.safetensors").write_bytes(safetensors(10))
    with making(store, model.folder, model.meta.digest) as made:
        os.symlink(tmp_path / "secret.safetensors", f"{made.folder}/made/{where}")
        error = error_of(derive.publish, store, entry_for(), made, quiet)
    assert error.kind == "IntegrityError"
    assert ("not a plain file" if "/" in where else "in the wrong place") in str(error)
    assert [entry.key for entry in store.entries()] == [model.key]


def test_a_file_that_is_swapped_for_a_link_while_it_is_published_is_not_followed(store, model, tmp_path, monkeypatch):
    secret = tmp_path / "key"
    opened = os.open

    def swapping(path, flags, *rest, dir_fd=None):
        if path == WEIGHTS.partition("/")[2] and dir_fd is not None:
            with open(opened(path, os.O_RDONLY, dir_fd=dir_fd), "rb") as made:
                secret.write_bytes(made.read())  # of the same length, or that would tell
            secret.chmod(0o600)
            os.unlink(path, dir_fd=dir_fd)
            os.symlink(secret, path, dir_fd=dir_fd)
        return opened(path, flags, *rest, dir_fd=dir_fd)

    with making(store, model.folder, model.meta.digest) as made:
        monkeypatch.setattr(os, "open", swapping)
        error = error_of(derive.publish, store, entry_for(), made, quiet)
        monkeypatch.undo()
    assert error.kind in ("IntegrityError", "StorageError")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert [entry.key for entry in store.entries()] == [model.key]


def test_who_still_has_an_engines_file_open_changes_nothing_that_was_published(store, model):
    with making(store, model.folder, model.meta.digest) as made:
        kept = [os.open(path, os.O_RDWR) for path in Path(made.folder, "made").rglob("*") if path.is_file()]
        form = derive.publish(store, entry_for(), made, quiet)
        for fd in kept:
            os.pwrite(fd, b"evil", 20)
            os.close(fd)
    verify(store, model, "mine", quiet, [form])


def test_a_form_of_a_folder_of_the_hosts_has_copies_of_the_rest(store, tmp_path):
    folder = write_model(tmp_path / "mine")
    with making(store, folder, "sha256:" + 64 * "0") as made:
        form = derive.publish(store, entry_for(), made, quiet)
    (folder / "text_encoder/model.safetensors").write_bytes(b"changed later")
    assert whole(store) == []
    verify(store, form, "mine", quiet)
    assert collect.plan_gc(store).models == []
    later = time.time() + collect.KEEP_PARTIAL_SECONDS + 60
    assert [entry.key for entry in collect.plan_gc(store, now=later).models] == [form.key]
    assert [entry.key for entry in collect.plan_remove(store, "mine").models] == [form.key]


def test_a_model_that_was_damaged_or_removed_meanwhile_gets_no_form(store, model, tmp_path):
    with making(store, model.folder, model.meta.digest) as made:
        collect.remove(store, collect.plan_remove(store, "mine"), "mine")
        assert error_of(derive.publish, store, entry_for(), made, quiet).kind == "ModelNotInstalled"
    assert store.entries() == []
    again = import_model(store, entry_for(), tmp_path / "mine", quiet)
    with making(store, again.folder, again.meta.digest) as made:
        staging.rewrite(again, msgspec.structs.replace(again.meta, damaged=["model_index.json"]))
        assert error_of(derive.publish, store, entry_for(), made, quiet).kind == "ModelNotInstalled"
    assert store.forms() == []


def test_the_forms_go_before_their_model_and_their_bytes_are_counted(store, model, monkeypatch):
    forms = [prepare(store, model, bits=bits) for bits in ("4bit", "8bit")]
    plan = collect.plan_remove(store, "mine")
    assert {entry.key for entry in plan.models[:2]} == {form.key for form in forms}
    assert plan.models[2].key == model.key
    before = survey.usage(store).bytes
    assert plan.bytes == before
    assert collect.remove(store, plan, "mine").bytes == before
    assert store.entries() == []
    assert survey.usage(store).bytes == 0


def test_a_form_in_use_keeps_its_model_and_everything_else_too(store, model):
    form = prepare(store, model)
    lock = store.use(form.key)
    error = error_of(collect.remove, store, collect.plan_remove(store, "mine"), "mine")
    assert (error.kind, error.data["errno"]) == ("StorageError", "EBUSY")
    assert {entry.key for entry in store.entries()} == {model.key, form.key}
    assert collect.execute(store, collect.plan_gc(store, model.meta.bytes)).models == []
    lock.release()
    lock = store.use(model.key)
    error = error_of(collect.remove, store, collect.plan_remove(store, "mine"), "mine")
    assert error.data["errno"] == "EBUSY"
    assert {entry.key for entry in store.entries()} == {model.key, form.key}
    lock.release()


def test_only_the_forms_can_be_removed_and_free_what_is_theirs_alone(store, model):
    form = prepare(store, model)
    own = sum(file.size for file in form.meta.files if file.path in made_files())
    usage = {one.entry.key: one for one in survey.usage(store).models}
    assert usage[form.key].bytes - usage[form.key].shared == own + (form.folder / "meta.json").stat().st_size
    plan = collect.plan_remove(store, "mine", only_prepared=True)
    assert plan.bytes == usage[form.key].bytes - usage[form.key].shared
    collect.remove(store, plan, "mine")
    assert whole(store) == ["mine"]
    verify(store, model, "mine", quiet)
    assert error_of(collect.plan_remove, store, "mine", only_prepared=True).kind == "ModelNotInstalled"


def test_a_model_that_another_id_needs_keeps_its_forms(store, model):
    form = prepare(store, model)
    staging.add_id(store, store.find("mine"), "second")
    assert [entry.key for entry in collect.plan_remove(store, "mine").models] == [model.key]
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    assert [entry.key for entry in store.forms(model.meta.digest)] == [form.key]


def test_collecting_takes_forms_before_any_model_however_lately_used(store, model, tmp_path):
    form = prepare(store, model)
    old = time.time() - 90 * 24 * 3600
    os.utime(model.folder / "meta.json", (old, old))
    room = survey.usage(store).bytes - 1
    assert [entry.key for entry in collect.plan_gc(store, room).models] == [form.key]
    assert [entry.key for entry in collect.plan_gc(store, 0).models] == [form.key, model.key]


def test_a_damaged_form_is_withdrawn_collected_and_made_again(store, model):
    form = prepare(store, model)
    victim = form.folder / WEIGHTS
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    error = error_of(verify, store, model, "mine", quiet, [form])
    assert (error.kind, error.data["files"]) == ("IntegrityError", [WEIGHTS])
    assert error.data["prepared"] == [form.meta.digest]
    assert store.find("mine").key == model.key
    assert store.forms(model.meta.digest) == []
    assert [entry.key for entry in collect.plan_gc(store).models] == [form.key]
    again = prepare(store, model)
    assert again.key == form.key
    verify(store, model, "mine", quiet, [again])


def test_the_worker_verifies_a_model_with_its_forms(store, model):
    form = prepare(store, model)
    told = []
    work = WorkerRequest(op="verify", root=str(store.root), entry=entry_for())
    perform(work, told.append, lambda _: None)
    assert told[-1].total_bytes == model.meta.bytes + form.meta.bytes
    (form.folder / WEIGHTS).unlink()
    assert error_of(perform, work, quiet, lambda _: None).data["prepared"] == [form.meta.digest]


def test_the_worker_verifies_a_folder_of_the_hosts_with_its_forms(store, tmp_path):
    """Like pocket's folder, which is in no store."""
    folder = write_model(tmp_path / "host")
    digest = model_digest(folder)
    with making(store, folder, digest) as made:
        form = derive.publish(store, entry_for(), made, quiet)
    told = []
    work = WorkerRequest(op="verify", root=str(store.root), entry=entry_for(), folder=str(folder))
    assert perform(work, told.append, lambda _: None).digest == digest
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert (told[-1].bytes, told[-1].total_bytes) == (size + form.meta.bytes,) * 2
    weights = form.folder / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    error = error_of(perform, work, quiet, lambda _: None)
    assert (error.kind, error.data["files"], error.data["prepared"]) == (
        "IntegrityError",
        [WEIGHTS],
        [form.meta.digest],
    )
    assert "prepared form of mine" in error.message
    assert "no longer be used" not in error.message  # the model itself is whole
    assert store.forms(digest) == []
    assert perform(work, quiet, lambda _: None).digest == digest


def test_the_same_form_published_twice_is_one(store, model):
    assert prepare(store, model).key == prepare(store, model).key
    assert len(store.entries()) == 2


def test_a_form_whose_bytes_are_there_already_becomes_that_of_the_newest_model(store, model, tmp_path):
    """The other version of the model differs only in what preparing replaces."""
    form = prepare(store, model)
    other = import_model(store, entry_for("other"), write_model(tmp_path / "other", seed=9), quiet)
    again = prepare(store, other)
    assert again.key == form.key
    assert store.forms(other.meta.digest)[0].key == form.key
    assert store.forms(model.meta.digest) == []


def test_a_prepared_model_that_is_imported_under_an_id_is_a_model(store, model, tmp_path):
    form = prepare(store, model)
    folder = shutil.copytree(form.folder, tmp_path / "published", ignore=shutil.ignore_patterns("meta.json"))
    imported = import_model(store, entry_for("ready"), folder, quiet)
    assert imported.key == form.key
    assert imported.derived_from is None
    assert store.find("ready").key == form.key
    assert form.key not in {entry.key for entry in collect.plan_remove(store, "mine").models}


def test_a_full_disk_while_publishing_is_told_and_leaves_nothing(store, model, monkeypatch):
    def full(*_):
        raise OSError(28, "no room")

    monkeypatch.setattr(disk, "write_new", full)
    assert error_of(prepare, store, model).kind == "InsufficientDisk"
    assert [entry.key for entry in store.entries()] == [model.key]
    assert list(store.incoming.iterdir()) == []


def test_what_a_killed_process_left_is_swept_when_it_is_old(store, model, ended):
    stage = Staging(store)
    (stage.folder / "made").mkdir()
    (stage.folder / "made" / "half.safetensors").write_bytes(b"x")
    living = Staging(store)
    stage._lock.release()
    (stage.folder / "lock").write_text(ended)
    for one in (stage, living):
        os.utime(one.folder, (1, 1))
    collect.sweep(store)
    assert list(store.incoming.iterdir()) == [living.folder]
    living.__exit__()


def test_downloading_a_model_again_leaves_its_forms(store, hub):
    model = download(store, hub)
    form = prepare(store, model)
    download(store, hub)
    assert [entry.key for entry in store.forms(model.meta.digest)] == [form.key]
    assert all(file.path.endswith(check.ALLOWED) for file in form.meta.files)
