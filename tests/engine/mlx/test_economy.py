"""What a job computes once instead of in every step, and the number type in which each part computes."""

import importlib

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from support.fixture_models import FAMILIES
from support.runtimes import make_runtime

pytestmark = pytest.mark.mlx

STEERING = {
    "tiny-sdxl": ("unet", "Unet", "steering"),
    "tiny-sd3": ("mmdit", "Mmdit", "modulation"),
    "tiny-z-image": ("zimage", "ZImageTransformer", "modulation"),
    "tiny-flux2": ("flux2", "Flux2Transformer", "modulation"),
}
"""For each model, the module, class and method that compute what does not depend on the latent."""


@pytest.mark.parametrize("model", FAMILIES)
def test_what_does_not_depend_on_the_latent_is_computed_once_for_all_steps(model, run, job_for, tmp_path, monkeypatch):
    module, cls, method = STEERING.get(model, ("flux", "Flux", "modulation"))
    owner = getattr(importlib.import_module(f"locara_sidecar.engine.mlx_engine.denoisers.{module}"), cls)
    made, calls = getattr(owner, method), []

    def counted(self, timesteps, *rest):
        calls.append(len(timesteps))
        return made(self, timesteps, *rest)

    monkeypatch.setattr(owner, method, counted)
    run(make_runtime("mlx", tmp_path), job_for(model, steps=5))
    assert calls == [5]


def types_of(module):
    return {value.dtype for _, value in tree_flatten(module.parameters())}


@pytest.mark.parametrize("model", FAMILIES)
def test_in_float16_what_would_overflow_has_a_wider_type(model, run, job_for, tmp_path):
    runtime = make_runtime("mlx", tmp_path)
    run(runtime, job_for(model, steps=1, precision="float16"))
    family = runtime.opened.family
    assert types_of(family.module(family.denoiser)) == {mx.float16}
    assert types_of(family.vae) == {mx.float32 if model in ("tiny-sdxl", "tiny-flux2") else mx.float16}
    qwen = dict.fromkeys(("tiny-z-image", "tiny-flux2"), "text_encoder")
    encoder = ({"tiny-sd3": "text_encoder_3", "tiny-sdxl": None} | qwen).get(model, "text_encoder_2")
    if encoder is not None:
        assert types_of(family.module(encoder)) == {mx.bfloat16}
