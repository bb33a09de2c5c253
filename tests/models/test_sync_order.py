"""The order in which things reach the disk, so that a power cut undoes nothing that was reported as done.

``tests/campaigns/powercut.py`` really cuts the power, as far as software can.
"""

import pytest

from locara_sidecar.models.cache import aside, disk
from locara_sidecar.models.imports.importing import import_model
from support.model_store import download, entry_for, hf_cache, whole, write_model
from support.prepared_forms import made_files, prepare


class Recorder:
    """Records what reaches the disk, by identity, and the names that are given, in order."""

    def __init__(self, monkeypatch):
        self.events = []
        monkeypatch.setattr(disk, "_SYSTEM", self)
        for name in ("rename", "link", "replace"):
            self._watch(monkeypatch, disk.os, name)

    def _watch(self, monkeypatch, module, name):
        real = getattr(module, name)

        def watched(old, new, **more):
            real(old, new, **more)
            self.events.append((name, str(old), str(new)))

        monkeypatch.setattr(module, name, watched)

    def sync(self, fd):
        stat = disk.os.fstat(fd)
        self.events.append(("sync", stat.st_dev, stat.st_ino))

    def when(self, path):
        """Return when each sync of what is now at ``path`` happened."""
        stat = path.stat()
        return [at for at, event in enumerate(self.events) if event == ("sync", stat.st_dev, stat.st_ino)]

    def published(self, store, entry):
        found = [at for at, event in enumerate(self.events) if event[-1] == str(entry.folder)]
        assert len(found) == 1
        return found[0]


def holds_order(recorder, store, entry):
    """Check the order: bytes before names, the tree before its digest, the digest before the answer."""
    visible = recorder.published(store, entry)
    for path in [entry.folder, *entry.folder.rglob("*")]:
        assert min(recorder.when(path), default=visible) < visible, path.name
    described = next(at for at, event in enumerate(recorder.events) if str(event[-1]).endswith("/meta.json"))
    assert any(described < at < visible for at in recorder.when(entry.folder))
    assert any(at < visible for at in recorder.when(store.root)), "the cache's own folders are new"
    for blob in store.blobs.iterdir():
        named = next(at for at, event in enumerate(recorder.events) if event[-1] == str(blob))
        assert min(recorder.when(blob), default=named) < named, blob.name
    assert any(at < visible for at in recorder.when(store.blobs))
    assert any(at > visible for at in recorder.when(store.models))


def test_a_download_syncs_bytes_before_names_and_names_before_it_answers(store, hub, monkeypatch):
    recorder = Recorder(monkeypatch)
    holds_order(recorder, store, download(store, hub))


@pytest.mark.parametrize("kind", ["folder", "cache"])
def test_an_import_syncs_bytes_before_names_even_those_that_somebody_else_wrote(store, tmp_path, monkeypatch, kind):
    source = write_model(tmp_path / "source")
    folder = source if kind == "folder" else hf_cache(tmp_path / "hub", source)
    recorder = Recorder(monkeypatch)
    holds_order(recorder, store, import_model(store, entry_for(), folder, lambda _: None))


def test_what_another_process_published_a_moment_ago_is_synced_before_it_is_answered(store, hub, monkeypatch):
    download(store, hub)
    for name in ("mine", "alias"):
        recorder = Recorder(monkeypatch)
        download(store, hub, entry_for(name))
        assert recorder.when(store.models)


def test_what_an_engine_prepared_is_synced_before_it_is_visible(store, tmp_path, monkeypatch):
    model = import_model(store, entry_for(), write_model(tmp_path / "source"), lambda _: None)
    recorder = Recorder(monkeypatch)
    form = prepare(store, model)
    visible = recorder.published(store, form)
    for path in [form.folder, *(form.folder / name for name in made_files())]:
        assert min(recorder.when(path), default=visible) < visible, path.name


def test_a_removal_is_synced_before_it_is_answered(store, hub, monkeypatch):
    entry = download(store, hub)
    recorder = Recorder(monkeypatch)
    gone = aside.set_aside(store, entry.key)
    assert recorder.when(store.models)
    assert gone is not None
    assert whole(store) == []
