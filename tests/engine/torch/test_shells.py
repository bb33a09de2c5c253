"""A component that is not loaded is a shell without memory."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from locara_sidecar.engine.drawing.warm import WarmKey
from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.torch_engine.tensors import weights
from locara_sidecar.ipc.errors import EngineError
from support.runtimes import make_runtime, staged

pytestmark = pytest.mark.torch


def loaded(runtime):
    return set(runtime.opened.family._loaded)


@pytest.mark.parametrize("at", [60, 120, 200])
def test_a_cancel_in_a_later_stage_leaves_whole_components_only(tmp_path, run, spec, control, runtime, at):
    cold = staged(make_runtime("torch", tmp_path), encoders_leave=True)
    assert run(cold, spec(), control("loading", at)).cancelled
    for name in loaded(cold):
        assert not any(tensor.is_meta for tensor in cold.opened.family.module(name).state_dict().values())
    assert run(cold, spec()).images[0].tobytes() == run(runtime, spec()).images[0].tobytes()


def test_opening_reads_no_weights(tmp_path, spec, control):
    cold = make_runtime("torch", tmp_path)
    job = spec()
    cold.warm._open(job.model, WarmKey.of(job.model, "float32", "none"), lambda event: None, control())
    assert loaded(cold) == set()
    assert all(tensor.is_meta for tensor in cold.opened.family.module("transformer").parameters())


def test_a_file_is_opened_anew_before_much_of_it_counts_as_own_memory(tmp_path, run, spec, runtime, monkeypatch):
    opened = []
    real = weights.safe_open
    monkeypatch.setattr(weights, "_MAPPED", 4096)
    monkeypatch.setattr(weights, "safe_open", lambda *args, **kwargs: opened.append(args[0]) or real(*args, **kwargs))
    result = run(make_runtime("torch", tmp_path), spec())
    assert len(opened) > 10 * len(set(opened))
    assert result.images[0].tobytes() == run(runtime, spec()).images[0].tobytes()


@pytest.mark.parametrize(("precision", "last"), [("bfloat16", True), ("float32", False)])
def test_an_autoencoders_convolutions_have_their_channels_last_where_that_pays(
    tmp_path, run, job_for, monkeypatch, precision, last
):
    runtime = make_runtime("torch", tmp_path / "one")
    result = run(runtime, job_for("tiny-sdxl", precision=precision))
    for part, expected in (("unet", False), ("vae", last)):
        kernels = [m.weight for m in runtime.opened.family.module(part).modules() if type(m) is torch.nn.Conv2d]
        wide = [kernel for kernel in kernels if kernel.shape[1] > 1 and kernel.shape[2] > 1]
        assert {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in wide} == {expected}
    monkeypatch.setattr(weights, "_CHANNELS_LAST", set())
    expected = run(make_runtime("torch", tmp_path / "two"), job_for("tiny-sdxl", precision=precision)).images[0]
    distance = np.abs(np.asarray(result.images[0], int) - np.asarray(expected, int))
    assert distance.mean() < 1 if last else not distance.any()


def test_a_shape_that_the_configuration_does_not_say_names_the_configuration_the_tensor_and_both(tmp_path):
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    files = [tmp_path / "model.safetensors"]
    component = model_folder.Component(name="vae", class_name="Linear", config={}, files=files, size=0)
    with torch.device("meta"):
        shell = torch.nn.Linear(4, 3)
    with pytest.raises(EngineError, match=r"weight is \[2, 4\], not \[3, 4\]") as raised:
        weights.require_fit(shell, component)
    assert raised.value.kind == "IntegrityError"
    assert "vae/config.json" in str(raised.value)
