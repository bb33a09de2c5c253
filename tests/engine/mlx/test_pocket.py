"""Learned weights: both engines draw the same pictures with *pocket*, and the judge gives them the same marks."""

from pathlib import Path

import numpy as np
import pytest

from locara_sidecar.models.catalogue import load
from pocket_model.judge import look
from support.parity import TOLERANCES, pixel_difference
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


@pytest.mark.quick_cases("a green square")
@pytest.mark.parametrize(("prompt", "negative"), PROMPTS)
def test_both_engines_draw_the_same_picture_with_the_same_marks(engines, prompt, negative):
    entry = load().get("pocket")
    job = make_job(
        path=str(FOLDER), digest="pocket", max_sequence_length=entry.defaults.max_sequence_length, prompt=prompt,
        negative_prompt=negative, steps=10, guidance=entry.defaults.guidance, seed=11, width=64, height=64,
    )  # fmt: skip
    ours, torchs = (np.array(run_job(engine, job).images[0]) for engine in engines)
    assert pixel_difference(ours, torchs) <= TOLERANCES["final image, pocket"]
    assert look(ours) == look(torchs)
