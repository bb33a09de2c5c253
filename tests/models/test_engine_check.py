"""A folder becomes an installed model only if the engine that will draw with it can open the folder."""

import importlib.util
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.machine import engine_choice, own_files
from locara_sidecar.models import worker
from locara_sidecar.models.catalogue import Entry
from locara_sidecar.models.checks import engine_check
from support.fixture_models import MODELS
from support.hub import FakeHub
from support.model_store import download, entry_for, error_of, whole, write_model

mlx = pytest.mark.mlx
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="asks the MLX engine"),
    pytest.mark.timeout(120),
]


def entry_of(model, **changes):
    data = json.loads((MODELS / f"{model}.json").read_text())
    source = {"repository": "org/mine", "files": ["*.json", "*.txt", "*.safetensors"]}
    return msgspec.convert({**data, "source": source, **changes}, Entry)


def take(store, entry, folder, *engines):
    work = worker.WorkerRequest(
        op="import", root=str(store.root), entry=entry, folder=str(folder), engines=list(engines)
    )
    return worker.perform(work, lambda _: None, lambda _: None)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODELS / "tiny-sdxl", tmp_path / "source")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param("mlx", marks=mlx), pytest.param("torch", marks=pytest.mark.torch)])
def test_a_folder_that_the_engine_can_open_is_installed(store, folder, engine):
    if engine not in engine_choice.installed():
        pytest.skip(f"{engine} is not installed")
    entry = entry_of("tiny-sdxl")
    assert take(store, entry, folder, engine).files
    assert whole(store) == [entry.id]


@mlx
def test_a_folder_that_it_cannot_open_is_refused_by_the_files_name_and_leaves_nothing(store, folder):
    change_json(folder / "vae/config.json", latent_channels=[4])
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    assert error.kind == "IntegrityError"
    assert "vae/config.json" in error.message
    assert error.data["files"] == ["vae/config.json"]
    assert str(store.root) not in error.message
    assert whole(store) == []


@mlx
def test_weights_of_other_shapes_than_the_configuration_has_are_refused_without_being_read(store, folder):
    change_json(folder / "text_encoder/config.json", intermediate_size=32)
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    assert error.kind == "IntegrityError"
    assert "text_encoder/config.json" in error.message
    assert whole(store) == []


@mlx
def test_a_scheduler_that_no_engine_runs_is_told_with_those_that_would_do(store, folder):
    """As in playgroundai/playground-v2.5-1024px-aesthetic."""
    change_json(folder / "model_index.json", scheduler=["diffusers", "EDMDPMSolverMultistepScheduler"])
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    assert error.kind == "IntegrityError"
    assert "EDMDPMSolverMultistepScheduler" in error.message
    assert "EulerDiscreteScheduler" in error.message
    assert whole(store) == []


@mlx
def test_a_scheduler_of_the_catalogue_that_the_family_does_not_run_is_told_with_those_it_runs(store, folder):
    entry = entry_of("tiny-sdxl")
    entry = msgspec.structs.replace(entry, defaults=msgspec.structs.replace(entry.defaults, scheduler="heun"))
    error = error_of(take, store, entry, folder, "mlx")
    assert error.kind == "EngineUnavailable"
    assert "heun" in error.message
    assert "euler-trailing" in error.message


@mlx
def test_the_entrys_own_scheduler_must_be_one_that_the_folder_can_be_drawn_with(store, folder):
    change_json(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    entry = entry_of("tiny-sdxl")
    other = msgspec.structs.replace(
        entry, defaults=msgspec.structs.replace(entry.defaults, scheduler="euler-ancestral")
    )
    error = error_of(take, store, other, folder, "mlx")
    assert (error.kind, error.data["files"]) == ("IntegrityError", ["scheduler/scheduler_config.json"])
    assert "sample" in error.message
    assert take(store, entry, folder, "mlx").files  # a job that chooses something else gets its own refusal


@mlx
@pytest.mark.parametrize(
    ("model", "size", "named"),
    [
        ("tiny-sd3", {"width": 1024}, ("transformer/config.json", "512")),
        ("tiny-sd3", {"height": 528}, ("transformer/config.json", "512")),
        ("tiny-flux", {"width": 72}, ("vae/config.json", "16")),
    ],
)
def test_a_model_that_cannot_be_drawn_at_its_entrys_own_size_is_refused(store, tmp_path, model, size, named):
    folder, entry = shutil.copytree(MODELS / model, tmp_path / "source"), entry_of(model)
    other = msgspec.structs.replace(entry, defaults=msgspec.structs.replace(entry.defaults, **size))
    error = error_of(take, store, other, folder, "mlx")
    assert (error.kind, error.data["files"]) == ("IntegrityError", [named[0]])
    assert named[1] in error.message
    assert whole(store) == []
    assert take(store, entry, folder, "mlx").files


@pytest.mark.parametrize("ended", [["-c", ""], None])
@pytest.mark.parametrize("replaced", [True, False])
def test_an_engine_that_an_update_took_away_is_not_the_model_s_fault(store, folder, monkeypatch, ended, replaced):
    """An import told that the model's files were damaged."""
    python = str(Path(own_files.__file__).with_name("gone")) if ended is None else sys.executable
    monkeypatch.setattr(engine_check.interpreter, "code", lambda _: [python, *(ended or ())])
    monkeypatch.setattr(own_files, "are_replaced", lambda: replaced)
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    if ended is None or replaced:
        assert (error.kind, error.data["reason"]) == ("StorageError", "updated")
    else:
        assert error.kind == "IntegrityError"
    assert whole(store) == []


@mlx
def test_a_part_that_is_missing_is_told_by_its_name(store, folder):
    (folder / "tokenizer/vocab.json").unlink()
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    assert (error.kind, error.data["file"]) == ("ModelIncomplete", "tokenizer/tokenizer.json")


@mlx
def test_a_download_is_asked_about_as_an_import_is(store, tmp_path):
    hub = FakeHub()
    try:
        hub.add("org/mine", write_model(tmp_path / "mine"))
        entry = entry_for()
        accept = partial(engine_check.require, ["mlx"], entry)
        with pytest.raises(RpcError) as caught:
            download(store, hub, entry, accept=accept)
    finally:
        hub.close()
    assert caught.value.kind == "IntegrityError"
    assert whole(store) == []


def test_without_an_engine_nothing_is_asked(store, tmp_path):
    assert take(store, entry_for(), write_model(tmp_path / "source")).files
    assert whole(store) == ["mine"]


def test_an_engine_that_cannot_start_is_not_asked(store, tmp_path):
    assert take(store, entry_for(), write_model(tmp_path / "source"), "none of them").files


@mlx
def test_one_engine_that_can_open_it_is_enough(store, folder, monkeypatch):
    answers = {"first": engine_check.Answer(kind="IntegrityError", message="no"), "second": engine_check.Answer()}
    monkeypatch.setattr(engine_check, "_asked", lambda engine, *_: answers[engine])
    entry = entry_of("tiny-sdxl")
    assert error_of(take, store, entry, folder, "first").message == "no"
    assert take(store, entry, folder, "first", "second").files


@pytest.mark.parametrize("boot", ["import os; os.abort()", "pass"])
def test_an_engine_that_dies_over_a_folder_refuses_it(store, folder, monkeypatch, boot):
    monkeypatch.setattr(engine_check, "_BOOT", boot)
    error = error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx")
    assert error.kind == "IntegrityError"
    assert "mlx" in error.message


def test_an_engine_that_hangs_over_a_folder_is_ended(store, folder, monkeypatch):
    monkeypatch.setattr(engine_check, "_BOOT", "import time; time.sleep(60)")
    monkeypatch.setattr(engine_check, "_SECONDS", 0.5)
    assert error_of(take, store, entry_of("tiny-sdxl"), folder, "mlx").kind == "IntegrityError"


def test_the_daemons_engine_is_asked_and_the_fake_one_never(monkeypatch):
    monkeypatch.setattr(engine_choice, "installed", lambda: ["mlx"])
    assert engine_choice.asked_about_folders("mlx") == ["mlx"]
    assert engine_choice.asked_about_folders("torch") == []
    assert engine_choice.asked_about_folders("fake") == []
