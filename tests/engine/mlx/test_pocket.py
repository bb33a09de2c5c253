"""Trained weights: both engines draw the same pictures with *pocket*, and the judge gives them the same marks."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from locara_sidecar.engine.drawing import strips
from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
from locara_sidecar.engine.torch_engine.strips import in_strips
from locara_sidecar.models.catalogue import load
from pocket_model.judge import look
from support.parity import TOLERANCES, build, pixel_difference
from support.runtimes import make_job, make_runtime, run_job

pytestmark = [pytest.mark.mlx, pytest.mark.torch, pytest.mark.timeout(300)]

FOLDER = Path(__file__).parents[3] / "sidecar" / "locara_sidecar" / "models" / "pocket"
PROMPTS = [
    ("a large red circle in the center of a blue background", ""),
    ("a small yellow star at the top left on a purple background", ""),
    ("a green square, white background", "red"),
    ("", ""),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return [make_runtime(name, tmp_path_factory.mktemp(name)) for name in ("mlx", "torch")]


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "negative"), PROMPTS)
def test_both_engines_draw_the_same_picture_with_the_same_marks(engines, prompt, negative):
    entry = load().get("pocket")
    job = make_job(
        path=str(FOLDER), digest="pocket", max_sequence_length=entry.defaults.max_sequence_length, prompt=prompt,
        negative_prompt=negative, steps=10, guidance=entry.defaults.guidance, seed=11, width=128, height=128,
    )  # fmt: skip
    ours, torchs = (np.array(run_job(engine, job).images[0]) for engine in engines)
    assert pixel_difference(ours, torchs) <= TOLERANCES["final image, pocket"]
    mine, reference = look(ours), look(torchs)
    assert (mine.background, mine.things) == (reference.background, reference.things)


def psnr(ours, whole, reach=None):
    """Return decibels, for numbers that span ``reach`` (by default, the span of ``whole``)."""
    ours, whole = (np.asarray(values, dtype=np.float64) for values in (ours, whole))
    error = np.square(ours - whole).mean()
    return 10 * np.log10((reach or np.ptp(whole)) ** 2 / max(error, 1e-30))


@pytest.fixture(scope="module")
def picture():
    """Return shapes on a gradient, so the parts' means differ from the whole's: (1, 3, 512, 512), -1 … 1."""
    y, x = np.mgrid[0:512, 0:512] / 512
    disc = (x - 0.6) ** 2 + (y - 0.3) ** 2 < 0.04
    values = np.stack([y, np.where(disc, 1.0, 0.2 * x), np.where(x + y > 1.3, 0.9, 0.1)])
    return (2 * values - 1)[None].astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_strips_are_the_whole_picture_up_to_rounding_at_512(engine, picture, monkeypatch):
    """Both directions, with trained weights, in strips of 16 rows and fewer: 60 dB, where tiles had 34 to 40."""
    monkeypatch.setattr(strips, "NUMBERS", 1 << 17)
    if engine == "torch":
        vae = AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32).eval()
        with torch.no_grad():
            pixels = torch.from_numpy(picture)
            latent = vae.encode(pixels).latent_dist.mean
            whole = vae.decode(latent).sample
            with in_strips(vae):
                pair = vae.encode(pixels).latent_dist.mean, vae.decode(latent).sample
    else:
        component = model_folder.read_component(FOLDER, "vae", "AutoencoderKL", "diffusion_pytorch_model")
        vae = build(Vae, component)
        pixels = mx.array(picture.transpose(0, 2, 3, 1))
        latent = vae.encode(pixels).mean
        whole = vae.decode(latent)
        pair = vae.encode(pixels, tiled=True).mean, vae.decode(latent, tiled=True)
    assert psnr(pair[0], latent) > 60
    assert psnr(pair[1], whole, 2.0) > 60
    assert np.ptp(np.asarray(whole)) > 1.5, "it is a picture"
