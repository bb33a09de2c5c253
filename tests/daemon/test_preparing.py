"""The last phases of preparing a model, run in this process: what an engine made is checked and published."""

import contextlib
import time
from pathlib import Path

import anyio
import pytest

from locara_sidecar.models.cache.store import Store


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def visible(cache):
    return {entry.key for entry in Store(cache).entries()}


class Engine:
    """Writes a component like the MLX engine."""

    def __init__(self):
        self.into = None

    async def prepare(self, spec, on_event):
        from locara_sidecar.ipc import frames
        from support.prepared_forms import made_files

        self.into = Path(spec.into)
        for path, data in made_files().items():
            (self.into / path).parent.mkdir(exist_ok=True)
            (self.into / path).write_bytes(data)
        return frames.Prepared(job=spec.job, quantization="4bit", precision="bfloat16", components=["transformer"])


@pytest.fixture
def order(tmp_path, cache):
    from locara_sidecar.daemon.model_methods import preparing
    from locara_sidecar.daemon.model_methods.model_work import run_for_user
    from locara_sidecar.models.imports.importing import import_model
    from locara_sidecar.models.model_specs import model_spec
    from support.model_store import entry_for, write_model

    store, entry = Store(cache), entry_for()
    installed = import_model(store, entry, write_model(tmp_path / "mine"), lambda _: None)
    model = model_spec(
        entry, folder=str(installed.folder), digest=installed.meta.digest, quantization="4bit", precision=None
    )
    return preparing.PreparationRequest(
        job="job-1",
        store=store,
        entry=entry,
        model=model,
        engine="mlx",
        digest=lambda: installed.meta.digest,
        run_work=run_for_user,
    )


@pytest.mark.parametrize("at", ["verifying", "publishing"])
def test_a_cancel_while_it_is_checked_or_published_leaves_nothing(order, cache, at, monkeypatch):
    from locara_sidecar.daemon.model_methods import preparing

    there, told = visible(cache), []

    async def main():
        with anyio.CancelScope() as scope:

            def tell(phase, done, total):
                told.append(phase)
                if phase == at:
                    scope.cancel()

            await preparing.prepare(order, Engine(), tell)
        return scope.cancelled_caught

    with anyio_deadline():
        cancelled = anyio.run(main)
    assert cancelled
    assert told[-1] == at
    # a cancel that arrives while the form gets its name may be too late: then the form is complete
    assert visible(cache) == there or at == "publishing"
    assert list((cache / "incoming").iterdir()) == []


@contextlib.contextmanager
def anyio_deadline():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("first", ["made", "removed"])
def test_whether_its_folder_is_made_or_removed_first_nothing_stays(cache, first):
    """A cancel that does not wait for the thread that makes it, as Ctrl-C's, may be the quicker one."""
    from locara_sidecar.daemon.model_methods import preparing

    stage = preparing._Stage(Store(cache))
    if first == "made":
        assert stage.make().is_dir()
        stage.remove()
    else:
        stage.remove()
        with pytest.raises(FileNotFoundError):
            stage.make()
    assert list(cache.glob("incoming/*")) == []


def test_a_model_whose_files_changed_meanwhile_gets_no_form(order, cache):
    from msgspec.structs import replace

    from locara_protocol.errors import RpcError
    from locara_sidecar.daemon.model_methods import preparing

    there = visible(cache)
    with pytest.raises(RpcError) as caught:
        anyio.run(preparing.prepare, replace(order, digest=lambda: "sha256:other"), Engine(), lambda *_: None)
    assert caught.value.kind == "IntegrityError"
    assert visible(cache) == there
    assert list((cache / "incoming").iterdir()) == []
