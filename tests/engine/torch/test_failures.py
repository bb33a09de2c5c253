"""Named errors, and the device's figures."""

import pytest
import torch

from locara_sidecar.engine.torch_engine import devices
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine

pytestmark = pytest.mark.torch


def fault_of(runtime, run, spec):
    with pytest.raises(EngineError) as caught:
        run(runtime, spec)
    return caught.value


@pytest.fixture
def parts(runtime, run, spec):
    run(runtime, spec())
    return runtime.opened.family


def raising(error):
    def hook(module, args):
        raise error

    return hook


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


def test_a_gpu_that_cannot_be_used_is_told_of(monkeypatch, tmp_path):
    node = tmp_path / "nvidiactl"
    monkeypatch.setattr(devices, "_NODES", {str(node): "13.0", "/dev/null": None})
    assert devices.unused_gpu("cpu") is None  # no such device here
    node.touch()

    def fail():
        raise RuntimeError("CUDA error 304: OS call failed.\nmore words")

    monkeypatch.setattr(torch.cuda, "init", fail)
    said = devices.unused_gpu("cpu")
    assert str(node) in said
    assert said.endswith("on the CPU: CUDA error 304: OS call failed.")
    assert devices.unused_gpu("cuda") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the user asked for it
    assert devices.unused_gpu("cpu") is None


@pytest.mark.parametrize(("device", "allowed"), [("cpu", {"float32", "bfloat16"}), ("mps", {"bfloat16", "float16"})])
def test_auto_precision_is_sound_for_the_device(device, allowed):
    assert devices.choose_precision("auto", device) in allowed
    assert devices.choose_precision("float16", device) == "float16"


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu sse avx2 avx512f avx512_bf16 amx_tile", "bfloat16"),
        ("fpu sse amx_bf16 amx_tile", "bfloat16"),
        ("fpu sse avx2 avx512f avx512_vnni bf16x", "float32"),
    ],
)
def test_a_processor_that_multiplies_bfloat16_itself_computes_in_it(monkeypatch, tmp_path, flags, precision):
    (tmp_path / "cpuinfo").write_text(f"model name\t: any\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "cpuinfo" if path == "/proc/cpuinfo" else path)
    monkeypatch.setattr(machine, "_has_bfloat16", machine._has_bfloat16.__wrapped__)
    assert devices.choose_precision("auto", "cpu") == precision
