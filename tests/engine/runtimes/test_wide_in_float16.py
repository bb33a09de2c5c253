"""What float16 cannot hold stays wider in both engines, and the memory plan knows what that takes."""

import pytest

from locara_sidecar.machine import plan as plans
from support.fixture_models import FAMILIES

WIDE = {"tiny-sdxl", "tiny-flux2"}
"""Models whose autoencoder computes in float32 where the others do it in float16."""


def bytes_of(module):
    if hasattr(module, "state_dict"):
        return sum(value.nbytes for value in [*module.parameters(), *module.buffers()])
    from mlx.utils import tree_flatten

    return sum(value.nbytes for _, value in tree_flatten(module.parameters()))


@pytest.mark.quick_cases("tiny-sdxl", "tiny-sd3")
@pytest.mark.parametrize("model", FAMILIES)
def test_weights_take_what_the_plan_says(cold, run, job_for, model):
    """But for a decoder on torch, which is widened for the time of its use alone."""
    assert run(cold, job_for(model, steps=1, precision="float16")).images
    family = cold.opened.family
    for part in family.parts:
        planned = plans.weight_bytes(part, "none", "float16")
        taken = bytes_of(family.module(part.name))
        if part.role == "decoder":
            assert part.wide == (part.parameters if model in WIDE else 0)
            taken *= 2 if cold.name == "torch" and model in WIDE else 1
        assert taken == pytest.approx(planned, rel=0.02)  # a few tables of positions
