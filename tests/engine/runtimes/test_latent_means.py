"""Autoencoders whose configuration has a mean and a deviation per latent channel, like Playground 2.5's."""

import contextlib
import json
import shutil

import numpy as np
import pytest

from locara_sidecar.ipc.errors import EngineError
from support.edits import edit, photo, stencil
from support.fixture_models import MODELS

reference = pytest.importorskip("support.diffusers_reference", reason="diffusers is the judge")

MEANS = {
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    "scaling_factor": 0.5,
}
"""playgroundai/playground-v2.5-1024px-aesthetic, vae/config.json."""
TOLERANCE = {"torch": 1, "mlx": 2}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def with_means(tmp_path):
    folder = shutil.copytree(MODELS / "tiny-sdxl", tmp_path / "model")
    change_json(folder / "vae/config.json", **MEANS)
    return folder


@contextlib.contextmanager
def theirs_with_means(way):
    """Return diffusers' pipeline with the same configuration of the autoencoder."""
    vae = reference.pipeline("tiny-sdxl", way).vae
    before = {name: vae.config[name] for name in MEANS}
    vae.register_to_config(**MEANS)
    try:
        yield
    finally:
        vae.register_to_config(**before)


def compare(engine, result, spec, way, **arguments):
    with theirs_with_means(way), reference.drawing("tiny-sdxl", way, spec.seed):
        theirs = reference.picture("tiny-sdxl", spec, way, **arguments)
    mine = np.array(result.images[0]).astype(int)
    assert np.abs(mine - np.array(theirs)).max() <= TOLERANCE[engine]
    return mine


def test_a_picture_is_decoded_with_them(engine, runtimes, run, job_for, with_means):
    spec = job_for("tiny-sdxl", path=str(with_means), digest="means", precision="float32")
    mine = compare(engine, run(runtimes("tiny-sdxl"), spec), spec, reference.TEXT)
    without = run(runtimes("tiny-sdxl"), job_for("tiny-sdxl", precision="float32")).images[0]
    assert np.abs(mine - np.array(without)).max() > 20


def test_an_edit_is_encoded_with_them_too(engine, runtimes, run, job_for, with_means):
    spec = job_for("tiny-sdxl", path=str(with_means), digest="means", precision="float32", edit=edit(photo()))
    result = run(runtimes("tiny-sdxl"), spec)
    compare(engine, result, spec, reference.IMAGE, image=photo(), strength=0.6)


def test_previews_are_decoded_with_them(runtimes, run, job_for, with_means):
    runtime = runtimes("tiny-sdxl")
    result = run(runtime, job_for("tiny-sdxl", path=str(with_means), digest="means", precision="float32"))
    preview, kind = runtime.preview(result.steps[-1].x0, "full", 64)
    assert kind == "full"
    assert np.abs(np.array(preview).astype(int) - np.array(result.images[0])).mean() < 8


def refused(runtime, run, spec):
    with pytest.raises(EngineError) as caught:
        run(runtime, spec)
    return caught.value


def test_a_masked_edit_is_refused_because_diffusers_encodes_without_them(cold, run, job_for, with_means):
    spec = job_for("tiny-sdxl", path=str(with_means), digest="means", edit=edit(mask=stencil()))
    fault = refused(cold, run, spec)
    assert cold.opened.family.missing({"unet", "vae"}), "weights were read before"
    assert (fault.kind, fault.data["path"]) == ("InvalidParams", "$.mask")
    assert "latents_mean" in fault.message


@pytest.mark.parametrize(
    ("model", "change", "named"),
    [
        ("tiny-sdxl", {"latents_std": None}, "latents_std"),
        ("tiny-sdxl", {"latents_mean": [0.0] * 3}, "latents_mean"),
        ("tiny-sdxl", {"latents_std": [0.0] * 4}, "latents_std"),
        ("tiny-sdxl", {"shift_factor": 0.1}, "shift_factor"),
        ("tiny-flux", {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}, "latents_mean"),
        ("tiny-sd3", {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}, "latents_mean"),
    ],
)
def test_what_the_models_pipeline_does_not_apply_is_refused_by_name(
    runtimes, run, job_for, tmp_path, model, change, named
):
    folder = shutil.copytree(MODELS / model, tmp_path / "model")
    base = MEANS if model == "tiny-sdxl" else {}
    change_json(folder / "vae/config.json", **base | change)
    fault = refused(runtimes(model), run, job_for(model, path=str(folder), digest=str(folder)))
    assert fault.kind == "IntegrityError"
    assert "vae/config.json" in fault.message
    assert named in fault.message
