"""The installation, with the models in it, is missing for a moment when an update replaces it."""

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.access import gate, inventory
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.models import catalogue, operations
from locara_sidecar.models.cache import digest
from support.model_store import entry_for

NO_CALL = SimpleNamespace(method="image.generate", id=1)


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """The folder of an installation, with a model in it."""
    folder = tmp_path / "python"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "model_index.json").write_text("{}")
    monkeypatch.setattr(sys, "prefix", str(folder))
    return folder


@pytest.fixture
def away(prefix):
    """Remove the folder; it returns a little later."""
    timers = []

    def take():
        prefix.rename(prefix.with_name("old"))
        timers.append(threading.Timer(0.3, prefix.with_name("old").rename, [prefix]))
        timers[-1].start()

    yield take
    for timer in timers:
        timer.join()


@pytest.fixture
def asked(prefix, monkeypatch):
    """A gate that finds the model on the disk, if it is there."""

    def take(catalogue, pinned, **_):
        there = prefix / "mine"
        return inventory.Inventory({"mine": there} if there.exists() else {})

    monkeypatch.setattr(inventory, "take", take)
    policy = SimpleNamespace(manifest=None)
    return gate.Gate(SimpleNamespace(get=lambda _: None), "mlx", lambda: policy, lambda *_: None)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_model_that_is_away_for_a_moment_is_installed(asked, away, monkeypatch, when):
    if when == "before":
        away()
    else:
        looks, take = [], inventory.take

        def interrupted(catalogue, pinned, **_):
            looks.append(None)
            if len(looks) == 1:
                away()
            return take(catalogue, pinned)

        monkeypatch.setattr(inventory, "take", interrupted)
    asked.look()
    assert asked.folder("mine") is not None


def test_a_model_that_is_away_for_a_moment_has_its_digest(asked, away, prefix):
    asked.look()
    once = digest.model_digest(prefix / "mine")
    away()
    assert anyio.run(asked.digest, NO_CALL, "mine", lambda _: None) == once


def test_a_model_that_is_gone_has_no_digest(asked, prefix, monkeypatch):
    """It used to get the digest of a model without files; then a file of it could not be read, with no remedy."""
    monkeypatch.setattr(program, "_SWAP", 0.0)
    asked.look()
    prefix.rename(prefix.with_name("old"))
    with pytest.raises(RpcError) as caught:
        anyio.run(asked.digest, NO_CALL, "mine", lambda _: None)
    assert (caught.value.kind, caught.value.data["reason"]) == ("EngineUnavailable", "updated")


def gate_of(entries, there):
    catalogue = SimpleNamespace(
        get={entry.id: entry for entry in entries}.get,
        __iter__=lambda: iter(entries),
        note="",
        own_folder=lambda _: None,
    )
    made = gate.Gate(catalogue, "mlx", lambda: SimpleNamespace(manifest=None), lambda *_: None)
    folders = dict.fromkeys(there, Path("/there"))
    found = inventory.expected(entries, folders, fake=False)
    made._seen = (1, inventory.Inventory(folders, expected=found))
    return made


@pytest.mark.parametrize("explicit", [True, False])
def test_a_model_of_the_sidecar_s_own_that_an_update_took_away_is_not_replaced_by_another(explicit):
    """An update with another Python has it elsewhere. An error used to say that it was not installed, or another model
    drew.
    """
    own, other = entry_for("own", source={"package": True}), entry_for("other")
    with pytest.raises(RpcError, match="Restart the sidecar") as caught:
        gate_of([own, other], ["other"]).choose(("own", "other"), explicit=explicit)
    assert (caught.value.kind, caught.value.data["reason"]) == ("EngineUnavailable", "updated")
    assert gate_of([own, other], ["own", "other"]).choose(("own", "other"), explicit=explicit) is own
    with pytest.raises(RpcError, match="not installed") as caught:
        gate_of([own, other], ["own"]).choose(("other",), explicit=explicit)
    assert caught.value.kind == "ModelNotInstalled"


def test_a_model_of_the_sidecar_s_own_that_an_update_took_away_is_listed_as_installed(monkeypatch):
    """It was listed as not installed, and a host would have offered to download what no hub has."""
    known = catalogue.load()
    monkeypatch.setattr(catalogue, "_is_model", lambda _: False)
    shown = {model.id: model.installed for model in operations.describe(known, known, {}, ["torch"])}
    assert [name for name, installed in shown.items() if installed] == ["pocket"]


def test_a_model_of_the_sidecar_s_own_that_an_update_took_away_cannot_be_checked(tmp_path):
    catalogue = SimpleNamespace(store=SimpleNamespace(root=tmp_path), own_folder=lambda _: None)
    for package, kind in ((True, "StorageError"), (False, "ModelNotInstalled")):
        entry = entry_for(source={"package": package})
        with pytest.raises(RpcError) as caught:
            operations.work(catalogue, entry, "verify", there=None)
        assert caught.value.kind == kind
    with pytest.raises(RpcError, match="Restart the sidecar"):
        operations.work(catalogue, entry_for(source={"package": True}), "verify", there=None)


def test_files_that_are_replaced_while_they_are_hashed_are_hashed_anew(prefix):
    """The digest is that of one model, not of a mixture of both."""
    folder, changes = prefix / "mine", []
    for name in ("one.json", "two.json"):
        (folder / name).write_text("old")

    def replace(_):
        if not changes:
            changes.append(None)
            for name in ("one.json", "two.json"):
                (folder / name).write_text("newer")

    found = digest.model_digest(folder, replace)
    digest._known.clear()
    assert found == digest.model_digest(folder)


def test_files_that_change_all_the_time_have_no_digest(prefix):
    times = iter(range(1, 9))

    def change(_):
        os.utime(prefix / "mine" / "model_index.json", (0, next(times)))

    with pytest.raises(OSError, match="change all the time"):
        digest.model_digest(prefix / "mine", change)


def test_what_dpkg_puts_beside_a_model_s_files_as_it_replaces_them_does_not_change_its_digest(tmp_path):
    """A picture used to name another model, and a manifest that pins the right one denied it."""
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    before = digest.model_digest(tmp_path)
    for ending in ("new", "tmp"):
        (tmp_path / "vae" / f"config.json.dpkg-{ending}").write_text("[]")
    assert digest.model_digest(tmp_path) == before
    assert digest.known_digest(tmp_path) == before


def test_a_file_that_is_renamed_as_a_model_is_looked_at_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text("{}")
    before = digest.model_digest(tmp_path)
    listed = [*digest.files_below(tmp_path), str(tmp_path / "gone.json")]
    monkeypatch.setattr(digest, "files_below", lambda _: listed)
    assert digest.model_digest(tmp_path) == before
