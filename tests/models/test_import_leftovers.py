"""An import that does not succeed leaves only what was there before it."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.models.cache import collect
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.imports.importing import import_model
from support.model_store import WEIGHTS, entry_for, error_of, hf_cache, take, whole, write_model


def files_in(store):
    folders = (store.blobs, store.models, store.incoming)
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("error", [RpcError("EngineUnavailable", "no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("way", ["folder", "cache"])
def test_an_import_that_is_refused_or_interrupted_leaves_only_what_was_there(store, tmp_path, way, error):
    source = write_model(tmp_path / "source")
    folder = hf_cache(tmp_path / "hub", source) if way == "cache" else source
    shared = take(store, write_model(tmp_path / "other", seed=2), entry_for("other"))
    begun = (source / WEIGHTS).read_bytes()  # from an interrupted download
    store.blob(hashlib.sha256(begun).hexdigest()).write_bytes(begun)
    before = files_in(store)

    def refuse(_):
        assert len(files_in(store)) > len(before) + 5
        raise error

    with pytest.raises(type(error)):
        import_model(store, entry_for(), folder, lambda _: None, refuse)
    assert files_in(store) == before
    assert list(store.incoming.iterdir()) == []
    assert whole(store) == ["other"]
    collect.remove(store, collect.plan_remove(store, "other"), "other")
    assert files_in(store) == [store.blob(hashlib.sha256(begun).hexdigest())]
    assert shared.meta.ids == ["other"]


def test_what_a_killed_import_left_goes_when_the_next_one_begins(store, tmp_path):
    write_model(tmp_path / "source")
    take(store, write_model(tmp_path / "other", seed=2), entry_for("other"))
    before = files_in(store)
    script = f"""
import time
from pathlib import Path
from locara_sidecar.models.imports.importing import import_model
from locara_sidecar.models.cache.store import Store
from support.model_store import entry_for
def stay(_):
    print("here", flush=True)
    time.sleep(60)
import_model(Store(Path({str(store.root)!r})), entry_for(), Path({str(tmp_path / "source")!r}), lambda _: None, stay)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as killed:
        assert killed.stdout.readline() == b"here\n"
        during = files_in(store)
        collect.sweep(store)
        assert files_in(store) == during
        killed.kill()
    assert len(during) > len(before) + 5
    broken = write_model(tmp_path / "broken", extra={WEIGHTS: b"no weights"})
    assert error_of(take, store, broken).kind == "IntegrityError"
    assert files_in(store) == before


def test_a_folder_that_cannot_be_begun_is_not_left(store, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "no disk")

    store.prepare()
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no disk"):
        Staging(store)
    assert list(store.incoming.iterdir()) == []
