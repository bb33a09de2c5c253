"""What can be tested of CUDA and MPS without either: fewer bits with the library's own code for these devices.

Its Python code runs here in two ways. On the processor, with numbers: MPS uses the same kernels, unless the package
`kernels` is installed and the hub can be reached. And on a simulated device, where no native code runs: every network
of every family must have all its tensors in the right place. What CUDA's kernels compute is not tested.
"""

import msgspec
import pytest
import torch
from torch import nn

from locara_sidecar.engine.folder.model_folder import Progress
from locara_sidecar.engine.torch_engine.tensors import bitsandbytes_layers, weights
from locara_sidecar.machine import plan
from support import pretended_devices as pretended
from support.fixture_models import FAMILIES
from support.runtimes import make_runtime

pytestmark = [pytest.mark.slow, pytest.mark.torch]

LAYERS = [bitsandbytes_layers.Linear8, bitsandbytes_layers.Linear4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("cls", LAYERS)
def test_a_layer_on_mps_computes_what_it_does_on_a_processor(cls, dtype, monkeypatch):
    torch.manual_seed(1)
    linear = nn.Linear(256, 96).to(dtype).requires_grad_(requires_grad=False)
    x = torch.randn(100, 256).to(dtype)
    here, there = cls(linear, dtype), cls(linear, dtype)
    here.store(linear.weight)
    wanted = here(x)
    with pretended.Played("mps", monkeypatch) as played:
        there.store(linear.weight)
        got = there(x)
    assert played.used
    torch.testing.assert_close(here.dequantized(), there.dequantized(), rtol=1e-2, atol=1e-3)
    assert float((wanted.float() - got.float()).norm() / wanted.float().norm()) < 0.02


@pytest.mark.quick_cases(
    "cuda-bfloat16-tiny-flux-8bit",
    "cuda-bfloat16-tiny-sd3-4bit",
    "mps-bfloat16-tiny-flux-kontext-none",
    "mps-float16-tiny-sdxl-none",
)
@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(("device", "precision"), [("cuda", "bfloat16"), ("mps", "bfloat16"), ("mps", "float16")])
def test_every_network_of_a_model_computes_on_the_device_alone(
    device, precision, model, quantization, tmp_path, run, job_for, monkeypatch
):
    runtime = make_runtime("torch", tmp_path)
    job = job_for(model, precision=precision, quantization=quantization, steps=1)
    run(runtime, job)
    family, calls, latents = runtime.opened.family, {}, []
    for name in (*family.encoders, family.denoiser):
        family.module(name).register_forward_hook(_keeping(calls, name), with_kwargs=True)
    decode = family.decode
    wide = family._dtype(family.decoder)  # in which the decoder gets it
    keep = latents.append
    monkeypatch.setattr(family, "decode", lambda latent, tiled: keep(latent.to(wide)) or decode(latent, tiled=tiled))
    run(runtime, msgspec.structs.replace(job, prompt="another one", seed=8))
    assert {*calls, family.decoder} == {*family.row.components}

    shells = {name: family._shell(name) for name in family._components}
    progress = Progress(1, lambda done: None, lambda: None)
    stored = {name: list(weights._tensors(part, progress)) for name, part in family._components.items()}
    monkeypatch.setattr(
        weights,
        "_tensors",
        lambda part, _: ((key, pretended.MODE.from_tensor(tensor)) for key, tensor in stored[part.name]),
    )
    with torch.no_grad(), pretended.MODE, pretended.Played(device, monkeypatch) as played:
        for name, component in family._components.items():
            module, bits = shells[name], plan.bits(family._part(name), quantization)
            weights.fill(module, component, family._dtype(name), device, progress, bits)
            family._fit(name, module)
            if name == family.decoder:
                got, wanted = module.decode(pretended.on(device, latents[0])), None
            else:
                args, kwargs, wanted = calls[name]
                got = module(*pretended.on(device, args), **pretended.on(device, kwargs))
            assert {x.device.type for x in pretended.tensors(got)} == {device}
            if wanted is not None:
                assert [(x.shape, x.dtype) for x in pretended.tensors(got)] == [
                    (x.shape, x.dtype) for x in pretended.tensors(wanted)
                ]
    assert bool(played.used) == (quantization != "none")


def _keeping(calls, name):
    def keep(module, args, kwargs, output):
        calls[name] = (args, kwargs, output)

    return keep
