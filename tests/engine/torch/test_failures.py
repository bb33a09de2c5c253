"""Failures that have a name, and the device's figures."""

import pytest
import torch

from locara_sidecar.engine.runtime import EngineFault
from locara_sidecar.engine.torch_engine import devices

pytestmark = pytest.mark.torch


def fault_of(runtime, run, spec):
    with pytest.raises(EngineFault) as caught:
        run(runtime, spec)
    return caught.value


@pytest.fixture
def parts(runtime, run, spec):
    run(runtime, spec())
    return runtime._opened.family


def raising(error):
    def hook(module, args):
        raise error

    return hook


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_numbers_that_are_not_finite_are_refused_and_not_shown_as_black(runtime, run, spec, parts, part):
    module = {"transformer": parts.module("transformer").proj_out, "vae": parts.module("vae").decoder.conv_out}[part]
    hook = module.register_forward_hook(lambda module, args, output: output * float("nan"))
    try:
        assert fault_of(runtime, run, spec()).kind == "InvalidOutput"
    finally:
        hook.remove()
    assert run(runtime, spec()).images


@pytest.mark.parametrize(("level", "colour"), [(0, (128, 128, 128)), (1, (255, 255, 255))])
def test_an_image_of_one_colour_is_an_image(runtime, run, spec, parts, level, colour):
    hook = parts.module("vae").decoder.conv_out.register_forward_hook(lambda module, args, output: output * 0 + level)
    try:
        assert run(runtime, spec()).images[0].getcolors() == [(64 * 64, colour)]
    finally:
        hook.remove()


def test_an_image_that_is_black_throughout_is_refused(runtime, run, spec, parts):
    hook = parts.module("vae").decoder.conv_out.register_forward_hook(lambda module, args, output: output * 0 - 1)
    try:
        assert fault_of(runtime, run, spec()).kind == "InvalidOutput"
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (MemoryError(), None),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to "
                      "allocate 4398046511104 bytes. Error code 12"), 4398046511104),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), 2_684_354_560),
    ],
)  # fmt: skip
def test_running_out_of_memory_has_a_name_and_the_figures_that_are_known(runtime, run, spec, parts, error, needed):
    hook = parts.module("transformer").transformer_blocks[1].register_forward_pre_hook(raising(error))
    try:
        fault = fault_of(runtime, run, spec())
    finally:
        hook.remove()
    assert fault.kind == "InsufficientMemory"
    assert fault.data.get("needed") == needed
    assert run(runtime, spec()).images


def test_another_error_of_the_libraries_keeps_its_type(runtime, run, spec, parts):
    hook = (
        parts.module("transformer")
        .transformer_blocks[1]
        .register_forward_pre_hook(raising(RuntimeError("shapes differ")))
    )
    try:
        with pytest.raises(RuntimeError, match="shapes differ"):
            run(runtime, spec())
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "changes",
    [{"quantization": "8bit"}, {"quantization": "4bit"}, {"scheduler": "euler"}, {"family": "sana", "digest": "x"}],
)
def test_what_the_engine_cannot_do_is_said(runtime, run, spec, changes):
    assert fault_of(runtime, run, spec(**changes)).kind == "EngineUnavailable"


def test_auto_precision_is_one_that_runs(runtime, run, spec):
    result = run(runtime, spec(precision="auto"))
    assert result.summary.settled.precision in ("float32", "bfloat16", "float16")
    assert result.images


@pytest.mark.parametrize(("device", "allowed"), [("cpu", {"float32", "bfloat16"}), ("mps", {"bfloat16", "float16"})])
def test_auto_precision_is_sound_for_the_device(device, allowed):
    assert devices.choose_precision("auto", device) in allowed
    assert devices.choose_precision("float16", device) == "float16"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precisions_give_nearly_the_same_picture(tmp_path, run, spec, runtime, precision):
    import numpy as np

    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

    expected = np.asarray(run(runtime, spec()).images[0], float)
    half = np.asarray(run(TorchRuntime(str(tmp_path)), spec(precision=precision)).images[0], float)
    assert np.corrcoef(expected.ravel(), half.ravel())[0, 1] > 0.9


def test_peak_memory_is_at_least_what_the_process_holds_and_never_falls(runtime):
    before = runtime.peak_memory()
    assert before > 64 << 20
    block = bytearray(before)  # zeroed pages are not touched, and so do not count
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert runtime.peak_memory() > before
    del block
    assert runtime.peak_memory() > before
