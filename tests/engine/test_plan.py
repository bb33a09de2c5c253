"""The memory plan for the machines that people have."""

import msgspec
import pytest

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import plan as plans
from locara_sidecar.machine.machine import GIB
from support.plans import KNOWN, ask, machine, parts

WHOLE, TILED = "whole", "tiled"
ALL, LEAVE, ALONE = "all stay", "encoders leave", "encoders alone"

# (machine, GiB, model): bits, decoding, residence; None if it is refused
TABLE = {
    ("unified", 8, "sd3.5-medium"): None,
    ("unified", 8, "sdxl-lightning"): ("8bit", TILED, ALONE),
    ("unified", 8, "flux.1-schnell"): None,
    ("unified", 16, "sd3.5-medium"): ("8bit", WHOLE, ALONE),
    ("unified", 16, "sd3.5-large"): ("4bit", WHOLE, ALONE),
    ("unified", 16, "flux.1-schnell"): ("4bit", TILED, ALONE),
    ("unified", 24, "sd3.5-medium"): ("none", WHOLE, ALONE),
    ("unified", 24, "sd3.5-large"): ("8bit", WHOLE, ALONE),
    ("unified", 24, "flux.1-dev"): ("4bit", WHOLE, LEAVE),
    ("unified", 32, "flux.1-kontext-dev"): ("8bit", WHOLE, ALONE),
    ("unified", 32, "sd3.5-large"): ("none", TILED, ALONE),
    ("unified", 64, "flux.1-dev"): ("none", WHOLE, LEAVE),
    ("unified", 64, "sd3.5-large"): ("none", WHOLE, ALL),
    ("unified", 8, "z-image-turbo"): ("4bit", TILED, ALONE),
    ("unified", 16, "z-image-turbo"): ("8bit", TILED, ALONE),
    ("unified", 24, "z-image-turbo"): ("none", TILED, ALONE),
    ("unified", 32, "z-image-turbo"): ("none", WHOLE, ALONE),
    ("unified", 64, "z-image-turbo"): ("none", WHOLE, ALL),
    ("gpu", 8, "z-image-turbo"): ("4bit", WHOLE, ALONE),
    ("gpu", 12, "z-image-turbo"): ("8bit", WHOLE, ALONE),
    ("gpu", 16, "z-image-turbo"): ("none", TILED, ALONE),
    ("gpu", 24, "z-image-turbo"): ("none", WHOLE, LEAVE),
    ("unified", 8, "flux.2-klein-4b"): ("4bit", TILED, ALONE),
    ("unified", 16, "flux.2-klein-4b"): ("none", TILED, ALONE),
    ("unified", 24, "flux.2-klein-4b"): ("none", WHOLE, ALONE),
    ("unified", 32, "flux.2-klein-4b"): ("none", WHOLE, LEAVE),
    ("unified", 64, "flux.2-klein-4b"): ("none", WHOLE, ALL),
    ("gpu", 8, "flux.2-klein-4b"): ("8bit", TILED, ALONE),
    ("gpu", 12, "flux.2-klein-4b"): ("none", TILED, ALONE),
    ("gpu", 16, "flux.2-klein-4b"): ("none", WHOLE, ALONE),
    ("gpu", 24, "flux.2-klein-4b"): ("none", WHOLE, ALL),
    ("gpu", 8, "sd3.5-medium"): ("4bit", WHOLE, ALONE),
    ("gpu", 8, "sdxl-lightning"): ("none", TILED, ALONE),
    ("gpu", 8, "flux.1-schnell"): None,
    ("gpu", 12, "sd3.5-medium"): ("8bit", WHOLE, ALONE),
    ("gpu", 12, "flux.1-dev"): ("4bit", WHOLE, ALONE),
    ("gpu", 16, "sd3.5-medium"): ("none", WHOLE, ALONE),
    ("gpu", 16, "flux.1-schnell"): ("4bit", WHOLE, ALL),
    ("gpu", 24, "sd3.5-large"): ("none", WHOLE, ALONE),
    ("gpu", 24, "flux.1-kontext-dev"): ("8bit", WHOLE, LEAVE),
    ("ram", 8, "sd3.5-medium"): ("4bit", WHOLE, ALONE),
    ("ram", 8, "pocket"): ("none", WHOLE, ALL),
    ("ram", 16, "flux.1-schnell"): ("4bit", WHOLE, ALONE),
    ("ram", 32, "flux.1-schnell"): ("8bit", WHOLE, ALL),
    ("ram", 64, "sd3.5-large"): ("none", WHOLE, ALL),
}


def described(plan):
    residence = ALONE if plan.alone else LEAVE if plan.encoders_leave else ALL
    return (plan.quantization, TILED if plan.tiled else WHOLE, residence)


@pytest.mark.parametrize(("row", "expected"), TABLE.items(), ids=lambda value: str(value))
def test_the_best_that_fits_is_chosen(row, expected):
    kind, gib, model = row
    plan = plans.choose(parts(model), ask(model), machine(kind, gib))
    assert (None if plan is None else described(plan)) == expected


@pytest.mark.parametrize("model", [entry.id for entry in KNOWN])
@pytest.mark.parametrize(("kind", "sizes"), [("unified", range(4, 129)), ("gpu", range(4, 97)), ("ram", range(4, 129))])
def test_a_plan_never_needs_more_than_there_is_and_more_memory_never_makes_it_worse(model, kind, sizes):
    best = -1
    for gib in sizes:
        plan = plans.choose(parts(model), ask(model), machine(kind, gib))
        if plan is None:
            assert best == -1
            continue
        assert plan.peak <= machines.limit(machine(kind, gib))
        quality = -plans.QUANTIZATIONS.index(plan.quantization)
        assert quality >= best or best == -1
        best = quality if best == -1 else max(best, quality)


@pytest.mark.parametrize("model", [entry.id for entry in KNOWN])
@pytest.mark.parametrize("gib", [8, 16, 18, 24, 36, 48, 64])
def test_on_unified_memory_what_is_free_at_the_moment_never_changes_the_picture(model, gib):
    whole = plans.choose(parts(model), ask(model), machine("unified", gib))
    for free in (0.1, gib / 8, gib / 4, gib / 2, gib):
        there = machine("unified", gib, free=free)
        plan = plans.choose(parts(model), ask(model), there)
        if whole is None:
            assert plan is None
            continue
        assert (plan.quantization, plan.tiled) == (whole.quantization, whole.tiled), free
        assert plan.peak <= whole.peak, "what is resident follows the moment"
        told = plans.tight(plan, there)
        assert (told is not None) is (plan.peak > machines.free(there))


def test_what_others_were_promised_does_change_it_and_other_memory_follows_the_moment():
    beside = machine("unified", 24, reserved=8 * GIB)
    assert plans.choose(parts("sd3.5-medium"), ask("sd3.5-medium"), machine("unified", 24)).quantization == "none"
    assert plans.choose(parts("sd3.5-medium"), ask("sd3.5-medium"), beside).quantization == "4bit"
    plenty, little = (machine("ram", 32, free=free) for free in (30, 12))
    assert plans.choose(parts("sd3.5-large"), ask("sd3.5-large"), plenty).quantization != "4bit"
    plan = plans.choose(parts("sd3.5-large"), ask("sd3.5-large"), little)
    assert plan.quantization == "4bit"
    assert plans.tight(plan, little) is None


def test_what_the_host_names_is_not_touched():
    big = machine("ram", 64)
    assert plans.choose(parts("flux.1-dev"), ask("flux.1-dev", quantization="4bit"), big).quantization == "4bit"
    assert plans.choose(parts("flux.1-dev"), ask("flux.1-dev", tiling="on"), big).tiled
    small = machine("gpu", 8)
    plan = plans.choose(parts("sd3.5-medium"), ask("sd3.5-medium", tiling="off"), small)
    assert not plan.tiled
    assert plans.choose(parts("sd3.5-medium"), ask("sd3.5-medium", quantization="none"), small) is None


def test_the_denoiser_leaves_where_decoding_in_one_piece_is_wanted_and_there_is_no_other_room():
    wanted = ask("flux.1-dev", quantization="8bit", tiling="off")
    least = min(plan.peak for plan in plans.candidates(parts("flux.1-dev"), wanted, "gpu"))
    tight = machine("gpu", 24, free=least / plans.COMFORT / GIB + 0.01)
    plan = plans.choose(parts("flux.1-dev"), wanted, tight)
    assert plan.denoiser_leaves
    assert plan.peak == least


def test_the_peak_counts_what_a_step_and_a_decode_compute_with():
    big = machine("ram", 64)
    small_picture = plans.choose(parts("sdxl-lightning"), ask("sdxl-lightning", width=512, height=512), big)
    large_picture = plans.choose(parts("sdxl-lightning"), ask("sdxl-lightning", width=1536, height=1536), big)
    assert large_picture.peak > small_picture.peak + 4 * GIB
    assert large_picture.weights == small_picture.weights
    wide = plans.choose(parts("sdxl-lightning"), ask("sdxl-lightning", precision="float32"), big)
    assert wide.weights == 2 * small_picture.weights


def test_another_daemons_engine_is_taken_off():
    alone, beside = (machine("ram", 32, reserved=reserved) for reserved in (0, 16 * GIB))
    assert plans.choose(parts("flux.1-dev"), ask("flux.1-dev"), alone).quantization == "8bit"
    assert plans.choose(parts("flux.1-dev"), ask("flux.1-dev"), beside).quantization == "4bit"
    assert plans.choose(parts("flux.1-dev"), ask("flux.1-dev"), machine("ram", 32, reserved=28 * GIB)) is None


@pytest.mark.parametrize(("kind", "gib"), [("unified", 16), ("unified", 24), ("gpu", 24), ("ram", 64)])
@pytest.mark.parametrize("model", ["sd3.5-medium", "flux.1-schnell", "sdxl-lightning"])
def test_an_allocator_may_hold_its_plan_and_a_little_more_but_never_more_than_the_machine_has(kind, gib, model):
    there = machine(kind, gib)
    plan = plans.choose(parts(model), ask(model), there)
    limits = plans.limits(plan, there)
    beside = 0 if kind == "gpu" else plans._ENGINE
    assert plan.peak <= limits.memory + beside <= min(machines.limit(there), 1.25 * plan.peak)
    assert 100 << 20 < limits.cache == plan.step < plan.peak


def test_what_another_daemon_was_promised_bounds_the_allocator_too():
    wanted = ask("sd3.5-medium", quantization="4bit")
    alone, beside = (machine("unified", 16, reserved=reserved) for reserved in (0, 4 * GIB))
    plan = plans.choose(parts("sd3.5-medium"), wanted, beside)
    assert plan.peak < machines.limit(beside) < 1.25 * plan.peak
    assert plans.limits(plan, beside).memory + plans._ENGINE == machines.limit(beside)
    assert plans.limits(plan, alone).memory > plans.limits(plan, beside).memory


def test_a_larger_picture_lets_the_allocator_keep_more_for_the_next_step():
    there = machine("unified", 128)
    small, large = (
        plans.limits(plans.choose(parts("flux.1-dev"), ask("flux.1-dev", width=side, height=side), there), there)
        for side in (512, 1024)
    )
    assert large.cache > 2 * small.cache
    assert large.memory > small.memory


def test_a_refusal_has_the_figures_and_says_what_would_fit():
    with pytest.raises(EngineError) as caught:
        plans.require(parts("sd3.5-medium"), ask("sd3.5-medium", quantization="none"), machine("gpu", 8))
    fault = caught.value
    assert fault.kind == "InsufficientMemory"
    assert fault.data["needed"] > fault.data["available"] > 7 * GIB
    assert "quantization 4bit" in fault.data["suggestions"]
    with pytest.raises(EngineError) as caught:
        plans.require(parts("flux.1-dev"), ask("flux.1-dev"), machine("gpu", 4))
    assert caught.value.data["suggestions"][-1] == "a smaller model"
    assert "quantization 4bit" not in caught.value.data["suggestions"]


def test_clip_and_the_autoencoder_keep_their_precision():
    kept = {part.name: plans.bits(part, "4bit") for part in parts("sd3.5-large")}
    assert kept == {"text_encoder": 0, "text_encoder_2": 0, "text_encoder_3": 4, "transformer": 4, "vae": 0}
    flux = next(part for part in parts("flux.1-dev") if part.role == "denoiser")
    assert plans.weight_bytes(flux, "4bit", "bfloat16") == pytest.approx(6.8e9, rel=0.01)
    assert plans.weight_bytes(flux, "none", "float32") == 2 * plans.weight_bytes(flux, "none", "bfloat16")


@pytest.mark.parametrize(
    ("side", "precision", "most"),
    [(1024, "bfloat16", 1.8), (1024, "float32", 1.8), (2048, "bfloat16", 6), (2048, "float32", 6)],
)
@pytest.mark.parametrize("model", ["sd3.5-medium", "flux.1-dev", "sdxl-lightning"])
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_strips_keep_an_autoencoder_within_its_bounds(model, side, precision, most, way):
    """In GB, with its weights; without strips it takes more than three times as much."""
    decoder = next(part for part in parts(model) if part.role == "decoder")
    value = plans.VALUE_BYTES[precision]
    strips, whole = (
        plans.coding_bytes(decoder, way, (side, side), value, tiled=tiled)
        + plans.weight_bytes(decoder, "none", precision)
        for tiled in (True, False)
    )
    assert strips < most * 1e9
    assert whole > 3 * strips


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("references", [(), ((1536, 1536),)], ids=["drawn", "read"])
def test_what_float16_does_not_suffice_for_takes_what_it_takes_in_float32(references, tiled):
    """The memory of an autoencoder's weights, of decoding and of encoding a picture; for an encoder, of what is kept
    wider.
    """
    encoder, denoiser, decoder = (
        plans.Part(name=role, role=role, parameters=10**6, width=width)
        for role, width in (("encoder", 0), ("denoiser", 64), ("decoder", 128))
    )
    wide = [msgspec.structs.replace(encoder, wide=300_000), denoiser, msgspec.structs.replace(decoder, wide=10**6)]
    tiling = "on" if tiled else "off"

    def plan(parts, precision):
        wanted = ask("sdxl-lightning", precision=precision, references=references, quantization="none", tiling=tiling)
        return plans.candidates(parts, wanted, "gpu")[-1]  # what is not needed has left

    half, full = (plan([encoder, denoiser, decoder], precision) for precision in ("float16", "float32"))
    mixed = plan(wide, "float16")
    assert mixed.weights - half.weights == 2 * 1_300_000
    others = 2 * 10**6  # the denoiser's, which stays while a picture is read
    assert mixed.peak == full.peak - (others if references else 0) > 1.7 * half.peak
    assert plan(wide, "bfloat16") == plan([encoder, denoiser, decoder], "bfloat16")
    assert plan(wide, "float32") == full


def test_a_step_in_float16_has_room_for_sums_in_float32():
    steps = {
        precision: plans.candidates(parts("flux.1-dev"), ask("flux.1-dev", precision=precision), "unified")[0].step
        for precision in ("float32", "bfloat16", "float16")
    }
    elements = (64 * 64 + 512 + 77) * 3072
    assert steps["float16"] - steps["bfloat16"] == 8 * elements
    assert steps["float32"] - steps["bfloat16"] == 2 * plans.DENOISING * elements


def test_strips_never_take_more_than_the_whole_and_small_pictures_gain_nothing():
    decoder = next(part for part in parts("pocket") if part.role == "decoder")
    for side in (64, 256, 512):
        strips, whole = (plans._decode_bytes(decoder, (side, side), 4, tiled=tiled) for tiled in (True, False))
        assert strips <= whole


@pytest.mark.parametrize(
    ("bytes_of", "took"), [("_decode_bytes", 752_844_800), ("_encode_bytes", 628_973_568)], ids=["decode", "encode"]
)
def test_strips_take_what_was_measured(bytes_of, took):
    """An autoencoder of the published size at 1024 x 1024 in bfloat16, on torch (``tests/fullsize/README.md``)."""
    decoder = next(part for part in parts("flux.2-klein-4b") if part.role == "decoder")
    assert took <= getattr(plans, bytes_of)(decoder, (1024, 1024), 2, tiled=True) < 1.2 * took
