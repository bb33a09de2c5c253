"""Weights are in memory once, and a stopped job releases its memory."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from locara_sidecar.engine.torch_engine import devices
from support import strips
from support.runtimes import make_runtime

pytestmark = pytest.mark.torch

FAMILIES = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl", "tiny-z-image", "tiny-flux2"]

LOADING = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from locara_sidecar.machine import memory
from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.torch_engine.tensors import bitsandbytes_layers, weights

folder, dtype, bits = Path(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3])

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(1024, 1024, bias=False) for _ in range(64))

file = folder / "diffusion_pytorch_model.safetensors"
if not file.exists():
    save_file({f"blocks.{k}.weight": torch.randn(1024, 1024).bfloat16() for k in range(64)}, file)
    sys.exit()
weights._MAPPED = 8 << 20
with torch.device("meta"):
    net = Net()
part = model_folder.Component(name="net", class_name="Net", config={}, files=[file], size=file.stat().st_size)
progress = model_folder.Progress(part.size, lambda fraction: None, lambda: None)
for cls in (bitsandbytes_layers.Linear8, bitsandbytes_layers.Linear4):  # what the first use of these takes is no weight
    cls(torch.nn.Linear(64, 64), dtype).store(torch.randn(64, 64))
bytearray(30 << 20)  # glibc learns from one that is freed to keep such ones in its heap
before = memory.resident()
weights.fill(net, part, dtype, "cpu", progress, bits)
held = sum(tensor.nbytes for tensor in net.state_dict().values())
print(json.dumps({"held": held, "took": memory.peak() - before}))
"""


@pytest.mark.timeout(180)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told as Linux counts it")
@pytest.mark.parametrize(("dtype", "bits"), [("float32", 0), ("bfloat16", 0), ("bfloat16", 8), ("bfloat16", 4)])
def test_weights_are_never_twice_in_memory(tmp_path_factory, dtype, bits):
    folder = tmp_path_factory.getbasetemp() / "weights"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", LOADING, str(folder), dtype, str(bits)]
    if not any(folder.iterdir()):
        subprocess.run(command, check=True)  # writes the weights, so that the memory for it is not counted
    figures = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert figures["held"] >= 64 * 1024 * 1024 * (bits or torch.finfo(getattr(torch, dtype)).bits) / 8
    window = 8 << 20  # the mapped file's
    few_tensors = 24 << 20  # one of 4 MB in float32, and the intermediate results of quantizing it
    assert figures["took"] < figures["held"] + window + few_tensors


def held():
    """Return the bytes of all tensors that are still referenced."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors if not tensor.is_meta}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.quick_cases(
    "tiny-flux-inside a step", "tiny-sd3-decoding in strips", "tiny-flux-dev-encoding", "tiny-sdxl-inside a predicted"
)
@pytest.mark.parametrize(
    ("phase", "options"),
    [
        ("encoding", {}),
        ("denoising", {}),
        ("denoising", {"steps": 15, "speed": "fast"}),
        ("decoding", {}),
        ("decoding", {"width": 256, "height": 256, "tiling": "on"}),
    ],
    ids=["encoding", "inside a step", "inside a predicted step", "decoding", "decoding in strips"],
)
@pytest.mark.parametrize("model", FAMILIES)
def test_a_cancelled_job_leaves_no_tensor_behind(runtimes, run, job_for, control, model, phase, options):
    runtime, job = runtimes(model), job_for(model, **options)
    places = run(runtime, job_for(model, **options | {"prompt": f"a tree, {phase}"})).control.counts[phase]
    run(runtime, job)  # so that its texts are in the cache
    runtime.opened.family.use_scheduler(job.scheduler)  # as every job does; before its steps are set it is larger
    known, before = set(runtime._embeddings._kept), held()
    if phase == "encoding":
        job = job_for(model, **options | {"prompt": "a white dog by a red tree"})
    assert run(runtime, job, control(phase, places * (1 if phase == "encoding" else 2) // 3)).cancelled
    new = [kept for key, kept in runtime._embeddings._kept.items() if key not in known]
    assert held() <= before + sum(tensor.nbytes for embedding in new for tensor in embedding)


@pytest.mark.quick_cases("tiny-flux-0.3", "tiny-sdxl-0.9")
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("model", FAMILIES)
def test_a_cancelled_load_keeps_whole_components_and_nothing_else(tmp_path, run, job_for, control, model, share):
    places = run(make_runtime("torch", tmp_path / "one"), job_for(model)).control.counts["loading"]
    before, cold = held(), make_runtime("torch", tmp_path / "two")
    assert run(cold, job_for(model), control("loading", int(places * share))).cancelled
    family = cold.opened.family
    whole = sum(t.nbytes for module in family._loaded.values() for t in module.state_dict().values())
    scheduler = 64 << 10
    assert held() - before <= whole + scheduler
    assert len(family._loaded) < len(family._components)


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told as Linux counts it")
@pytest.mark.parametrize(("way", "side"), [("decode", 512), ("encode", 512)])
def test_an_autoencoder_of_the_true_size_keeps_to_the_plan_in_strips(way, side):
    """In the type that ``auto`` means on this processor. Without instructions for bfloat16, torch takes four times as
    long in it as in float32, and more memory than the plan says: 1.5 % to decode, 0.8 % to encode. Larger pictures take
    minutes on two cores, and the plan's figure is proportional to the pixels.
    """
    case = strips.Case(way, side, devices.choose_precision("auto", "cpu"))
    taken = strips.measured(case, "torch")["taken"]
    assert taken <= strips.planned(case)
    assert taken < strips.planned(case, tiled=False) / 2
