"""The memory plan for edits with references: their tokens, and what encoding them takes."""

import msgspec
import pytest

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import plan as plans
from support.plans import ask, machine, parts

# (machine, GiB): for 1, 4 and 10 references of a megapixel, the bits and whether decoding is tiled; None: refused
REFERENCES = {
    ("unified", 8): [("4bit", True), None, None],
    ("unified", 16): [("8bit", False), ("8bit", False), None],
    ("unified", 24): [("none", False), ("none", False), ("8bit", False)],
    ("unified", 32): [("none", False)] * 3,
}


@pytest.mark.parametrize("row", REFERENCES, ids=str)
def test_references_take_memory_for_their_tokens(row):
    plan_of = {}
    for count in (1, 4, 10):
        wanted = ask("flux.2-klein-4b", references=((1024, 1024),) * count)
        plan = plans.choose(parts("flux.2-klein-4b"), wanted, machine(*row))
        plan_of[count] = None if plan is None else (plan.quantization, plan.tiled)
    assert list(plan_of.values()) == REFERENCES[row]


def test_each_reference_adds_its_own_tokens_to_a_step():
    model = "flux.1-kontext-dev"
    width = next(part.width for part in parts(model) if part.role == "denoiser")

    def step(*references):
        return plans.choose(parts(model), ask(model, references=references), machine("gpu", 80)).step

    token = width * 2 * plans.DENOISING
    assert step((1024, 1024)) - step() == pytest.approx(64 * 64 * token, abs=1)
    assert step((1024, 1024), (512, 768)) - step((1024, 1024)) == pytest.approx(32 * 48 * token, abs=2)
    assert step((1000, 700)) - step() == pytest.approx(62 * 43 * token, abs=1)  # what is left of a token is cropped


def test_a_reference_that_is_larger_than_the_picture_needs_memory_to_be_encoded():
    model = "flux.1-kontext-dev"
    small = ask(model, width=256, height=256, quantization="none", tiling="off")

    def peak(*references):
        plan = plans.choose(parts(model), msgspec.structs.replace(small, references=references), machine("gpu", 80))
        assert not plan.encoders_leave
        return plan.peak

    decoder = next(part for part in parts(model) if part.role == "decoder")
    encoding = plans._decode_bytes(decoder, (1024, 1024), 2, tiled=False)
    weights = sum(plans.weight_bytes(part, "none", "bfloat16") for part in parts(model))
    assert peak((1024, 1024)) == pytest.approx(weights + encoding, rel=1e-6)
    assert peak((1024, 1024)) > peak((256, 256))
    assert peak((1024, 1024)) == peak((256, 256), (1024, 1024))  # one after another


def test_a_reference_is_encoded_in_strips_where_pictures_are_decoded_in_strips():
    """With a denoiser so narrow that its steps take less than that."""
    model = "flux.1-kontext-dev"
    known = [msgspec.structs.replace(part, width=min(part.width, 1024)) for part in parts(model)]
    decoder = next(part for part in known if part.role == "decoder")
    request = ask(model, width=256, height=256, references=((2048, 2048),), tiling="on", quantization="none")
    plan = plans.choose(known, request, machine("gpu", 80))
    assert plan.tiled
    weights = sum(plans.weight_bytes(part, "none", "bfloat16") for part in known)
    most = max(plan.step, plans._encode_bytes(decoder, (2048, 2048), 2, tiled=True))
    assert plan.peak == pytest.approx(weights + most, rel=1e-6)
    assert most > plan.step


def test_ten_references_take_more_bits_than_one_leaves_on_a_small_gpu():
    model = "flux.1-kontext-dev"
    one, ten = (
        plans.choose(parts(model), ask(model, references=((1024, 1024),) * count), machine("gpu", 24))
        for count in (1, 10)
    )
    assert plans.QUANTIZATIONS.index(ten.quantization) >= plans.QUANTIZATIONS.index(one.quantization)
    assert ten.step > 4 * one.step


@pytest.mark.parametrize(("count", "helps"), [(1, False), (10, True)])
def test_a_refusal_of_many_references_says_that_fewer_would_fit(count, helps):
    model = "flux.2-klein-4b"
    asked = ask(model, references=((1024, 1024),) * count)
    plans.require(parts(model), asked if not helps else ask(model, references=((1024, 1024),)), machine("gpu", 8))
    with pytest.raises(EngineError) as caught:
        plans.require(parts(model), asked, machine("gpu", 8 if helps else 2))
    assert ("fewer pictures" in caught.value.data["suggestions"]) == helps
