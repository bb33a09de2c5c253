"""Every kind of model can stop in the middle of its work, refuses a broken folder by name and passes on no NaN."""

import json
import shutil

import pytest

from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS

pytestmark = pytest.mark.slow

DENOISER = {"tiny-sdxl": "unet"}


@pytest.fixture
def broken(tmp_path, model):
    """A copy of the model, to be damaged."""
    return shutil.copytree(MODELS / model, tmp_path / "model")


def refused(runtime, run, spec):
    """Return the error's name and message, and the phases entered before it."""
    events = []
    with pytest.raises(EngineError) as caught:
        run(runtime, spec, on_event=events.append)
    return caught.value.kind, caught.value.message, {event.phase for event in events if hasattr(event, "phase")}


@pytest.mark.quick_cases("tiny-flux-kontext", "tiny-sdxl")
@pytest.mark.parametrize("at", [5, 60])
def test_a_cancel_while_loading_leaves_a_runtime_that_loads_again(cold, runtimes, run, job_for, control, model, at):
    expected = run(runtimes(model), job_for(model)).images[0].tobytes()
    stopped = run(cold, job_for(model), control("loading", at))
    assert stopped.cancelled
    assert stopped.phases == [("loading", 1)]
    assert run(cold, job_for(model)).images[0].tobytes() == expected


@pytest.mark.parametrize(
    ("phase", "share", "steps_done"), [("denoising", 0.2, 0), ("denoising", 0.5, 1), ("decoding", 0.5, 3)]
)
def test_a_cancel_inside_a_step_or_the_decoder_changes_nothing_after_it(
    runtimes, run, job_for, control, model, phase, share, steps_done
):
    run(runtimes(model), job_for(model))
    whole = run(runtimes(model), job_for(model))
    places = whole.control.counts[phase]
    assert places > 10
    stopped = run(runtimes(model), job_for(model), control(phase, 1 + int(places * share)))
    assert stopped.cancelled
    assert len(stopped.steps) == steps_done
    assert not stopped.images
    assert run(runtimes(model), job_for(model)).images[0].tobytes() == whole.images[0].tobytes()


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
    """Return a weight file of the denoiser: the second shard if there are several."""
    return sorted((MODELS / model / DENOISER.get(model, "transformer")).glob("*.safetensors"))[-1].name


BREAKAGES = {
    "missing weights": ("ModelIncomplete", None, lambda path: path.unlink()),
    "cut weights": ("IntegrityError", None, _cut),
    "no weights but noise": ("IntegrityError", None, lambda path: path.write_bytes(b"\xff" * 1000)),
    "wrong configuration": ("IntegrityError", "config.json", lambda path: _edit_json(path, in_channels=12)),
    "no configuration": ("ModelIncomplete", "config.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize(("kind", "name", "damage"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_denoiser_is_refused_before_anything_is_sampled(cold, broken, run, job_for, model, kind, name, damage):
    part, file = DENOISER.get(model, "transformer"), name or _weights(model)
    damage(broken / part / file)
    found, message, phases = refused(cold, run, job_for(model, path=str(broken)))
    assert found == kind
    assert f"{part}/{file}" in message
    assert phases <= {"loading"}


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
def test_a_class_that_the_family_does_not_know_is_refused(cold, broken, run, job_for, model, change):
    if model in ("tiny-z-image", "tiny-flux2") and "text_encoder_2" in change:  # it has one encoder
        change = {"text_encoder": [None, None]}
    _edit_json(broken / "model_index.json", **change)
    kind, message, _ = refused(cold, run, job_for(model, path=str(broken)))
    assert kind == "IntegrityError"
    assert "model_index.json" in message


@pytest.mark.parametrize(
    ("asked", "other"), [("tiny-flux", "tiny-flux-kontext"), ("tiny-sdxl", "tiny-sd3"), ("tiny-sd3", "tiny-flux")]
)
def test_a_folder_of_another_family_is_refused(cold, run, job_for, asked, other):
    kind, _, _ = refused(cold, run, job_for(asked, path=str(MODELS / other)))
    assert kind == "IntegrityError"


def last_of(transformer):
    """Return the layer that outputs the velocity."""
    if hasattr(transformer, "all_final_layer"):  # diffusers' Z-Image
        return transformer.all_final_layer["2-1"].linear
    return transformer.proj_out


@pytest.mark.parametrize("part", ["denoiser", "decoder"])
def test_numbers_that_are_not_finite_are_no_output(runtimes, run, job_for, model, part):
    runtime = runtimes(model)
    expected = run(runtime, job_for(model)).images[0].tobytes()
    family = runtime.opened.family
    if part == "decoder":
        layer = family.module("vae").decoder.conv_out
    else:
        whole = family.module(family.denoiser)
        layer = whole.conv_out if model == "tiny-sdxl" else last_of(whole)
    weight = layer.weight
    layer.weight = type(weight)(weight * float("nan"))
    try:
        kind, message, phases = refused(runtime, run, job_for(model))
    finally:
        layer.weight = weight
    assert kind == "InvalidOutput"
    assert ("step 1" in message, "decoding" in phases) == (part == "denoiser", part == "decoder")
    assert run(runtime, job_for(model)).images[0].tobytes() == expected
