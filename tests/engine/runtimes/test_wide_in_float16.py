"""What float16 cannot hold stays wider in both engines, and the memory plan accounts for that."""

import pytest

from locara_sidecar.ipc.errors import EngineError
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
    """Except for a decoder on torch, which is widened only while it is used."""
    assert run(cold, job_for(model, steps=1, precision="float16")).images
    family = cold.opened.family
    for part in family.parts:
        planned = plans.weight_bytes(part, "none", "float16")
        taken = bytes_of(family.module(part.name))
        if part.role == "decoder":
            assert part.wide == (part.parameters if model in WIDE else 0)
            taken *= 2 if cold.name == "torch" and model in WIDE else 1
        assert taken == pytest.approx(planned, rel=0.02)  # a few tables of positions


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_who_gets_no_numbers_in_float16_is_told_of_its_range(cold, run, job_for, monkeypatch, precision):
    monkeypatch.setattr(cold.backend, "is_finite", lambda _: False)
    with pytest.raises(EngineError, match="numbers that are not finite") as told:
        run(cold, job_for("tiny-sd3", steps=1, precision=precision))
    assert ("precision bfloat16" in told.value.message) == (precision == "float16")
