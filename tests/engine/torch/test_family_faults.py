"""Every family stops inside whatever it does, refuses a broken folder by name, and passes on no NaN."""

import json
import shutil

import pytest

from locara_sidecar.engine.runtime import EngineFault
from support.fixture_models import MODELS
from support.runtimes import make_runtime

pytestmark = pytest.mark.torch

FAMILIES = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl"]
DENOISER = {"tiny-sdxl": "unet"}


@pytest.fixture
def broken(tmp_path):
    """A copy of a fixture model, to be broken."""

    def make(model):
        return shutil.copytree(MODELS / model, tmp_path / "model")

    return make


@pytest.mark.parametrize("share", [0.01, 0.4, 0.9])
@pytest.mark.parametrize("model", FAMILIES)
def test_a_cancel_while_loading_leaves_a_runtime_that_loads_again(
    tmp_path, runtimes, run, job_for, control, model, share
):
    expected = run(runtimes(model), job_for(model)).images[0].tobytes()
    places = run(make_runtime("torch", tmp_path / "one"), job_for(model)).control.counts["loading"]
    cold = make_runtime("torch", tmp_path / "two")
    stopped = run(cold, job_for(model), control("loading", 1 + int(places * share)))
    assert stopped.cancelled
    assert stopped.phases == [("loading", 1)]
    assert run(cold, job_for(model)).images[0].tobytes() == expected


@pytest.mark.parametrize(
    ("phase", "share", "steps_done"),
    [("denoising", 0.2, 0), ("denoising", 0.5, 1), ("denoising", 0.8, 2), ("decoding", 0.5, 3)],
)
@pytest.mark.parametrize("model", FAMILIES)
def test_a_cancel_inside_a_step_or_the_decoder_changes_nothing_after_it(
    runtimes, run, job_for, control, model, phase, share, steps_done
):
    run(runtimes(model), job_for(model))
    whole = run(runtimes(model), job_for(model))
    places = whole.control.counts[phase]
    assert places > 20
    stopped = run(runtimes(model), job_for(model), control(phase, 1 + int(places * share)))
    assert stopped.cancelled
    assert len(stopped.steps) == steps_done
    assert not stopped.images
    assert run(runtimes(model), job_for(model)).images[0].tobytes() == whole.images[0].tobytes()


@pytest.mark.parametrize("model", FAMILIES)
def test_a_cancel_inside_a_text_encoder_keeps_no_half_embedding(runtimes, run, job_for, control, model):
    spec = job_for(model, prompt="a yellow tree at the white dog")
    run(runtimes(model), job_for(model))
    stopped = run(runtimes(model), spec, control("encoding", 4))
    assert stopped.cancelled
    again = run(runtimes(model), spec)
    assert ("encoding", 1) in again.phases
    assert ("encoding", 1) not in run(runtimes(model), spec).phases


def _edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _weights(model):
    """A weight file of the denoiser: the second shard where there are several."""
    return sorted((MODELS / model / DENOISER.get(model, "transformer")).glob("*.safetensors"))[-1].name


BREAKAGES = {
    "missing weights": ("ModelIncomplete", None, lambda path: path.unlink()),
    "cut weights": ("IntegrityError", None, _cut),
    "no weights but noise": ("IntegrityError", None, lambda path: path.write_bytes(b"\xff" * 1000)),
    "wrong configuration": ("IntegrityError", "config.json", lambda path: _edit_json(path, in_channels=12)),
    "no configuration": ("ModelIncomplete", "config.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize(("kind", "name", "damage"), BREAKAGES.values(), ids=BREAKAGES)
@pytest.mark.parametrize("model", FAMILIES[1:])
def test_a_broken_denoiser_is_refused_before_anything_is_sampled(
    tmp_path, broken, run, job_for, model, kind, name, damage
):
    folder = broken(model)
    part = DENOISER.get(model, "transformer")
    damage(folder / part / (name or _weights(model)))
    events = []
    with pytest.raises(EngineFault) as caught:
        run(make_runtime("torch", tmp_path), job_for(model, path=str(folder)), on_event=events.append)
    assert caught.value.kind == kind
    assert f"{part}/{name or _weights(model)}" in caught.value.message
    assert {event.phase for event in events} <= {"loading"}


@pytest.mark.parametrize("model", FAMILIES[1:])
@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "SanaPipeline"},
        {"vae": ["diffusers", "AutoencoderDC"]},
        {"scheduler": ["diffusers", "DDPMScheduler"]},
        {"text_encoder": ["custom", "Anything"]},
        {"text_encoder_2": [None, None]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_class_that_the_family_does_not_know_is_refused(tmp_path, broken, run, job_for, model, change):
    folder = broken(model)
    _edit_json(folder / "model_index.json", **change)
    with pytest.raises(EngineFault) as caught:
        run(make_runtime("torch", tmp_path), job_for(model, path=str(folder)))
    assert caught.value.kind == "IntegrityError"
    assert "model_index.json" in caught.value.message


def test_a_folder_of_another_family_is_refused(tmp_path, run, job_for):
    for model, other in (("tiny-flux", "tiny-flux-kontext"), ("tiny-sdxl", "tiny-sd3")):
        with pytest.raises(EngineFault) as caught:
            run(make_runtime("torch", tmp_path), job_for(model, path=str(MODELS / other)))
        assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize("part", ["denoiser", "vae"])
@pytest.mark.parametrize("model", FAMILIES)
def test_numbers_that_are_not_finite_are_no_output(runtimes, run, job_for, model, part):
    expected = run(runtimes(model), job_for(model)).images[0].tobytes()
    family = runtimes(model)._opened.family
    if part == "vae":
        module = family.module("vae").decoder.conv_out
    else:
        whole = family.module(family.denoiser)
        module = whole.conv_out if model == "tiny-sdxl" else whole.proj_out
    hook = module.register_forward_hook(lambda module, args, output: output * float("nan"))
    try:
        with pytest.raises(EngineFault) as caught:
            run(runtimes(model), job_for(model))
    finally:
        hook.remove()
    assert caught.value.kind == "InvalidOutput"
    assert run(runtimes(model), job_for(model)).images[0].tobytes() == expected
