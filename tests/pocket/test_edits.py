"""The shipped weights can edit: through a mask a circle changes its colour, and nothing else changes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from locara_sidecar.engine.runtime import ImageEvent
from locara_sidecar.ipc.frames import EditSpec, EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides
from locara_sidecar.machine.engine_choice import installed
from support.edits import patches
from support.runtimes import as_before, make_runtime  # noqa: F401

SIDE = 128
MODELS = Path(__file__).parents[2] / "sidecar" / "locara_sidecar" / "models"

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(180),  # half a minute with MLX's build for processors, where nothing else runs
]


class Control:
    def checkpoint(self):
        pass


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in installed()])
def draw(request, tmp_path_factory):
    """Make one picture; without ``edit``, from the prompt alone."""
    entry = json.loads((MODELS / "catalogue" / "pocket.json").read_text())
    runtime = make_runtime(request.param, tmp_path_factory.mktemp("scratch"))

    def run(prompt, edit=None):
        defaults, sides = entry["defaults"], entry["sides"]
        model = ModelSpec(
            id="pocket", version="1", digest="", family=entry["family"], path=str(MODELS / "pocket"),
            max_sequence_length=defaults["maxSequenceLength"], quantization="none", precision="float32",
            sides=Sides(minimum=sides["minimum"], maximum=sides["maximum"], multiple_of=sides["multipleOf"],
                        max_pixels=sides["maxPixels"]),
        )  # fmt: skip
        side = SIDE if edit is None else 0
        spec = JobSpec(
            job="job-1", model=model, prompt=prompt, negative_prompt="", width=side, height=side,
            steps=defaults["steps"], guidance=defaults["guidance"], seed=1, count=1, scheduler=defaults["scheduler"],
            speed="exact", tiling="off", edit=edit,
            preview=PreviewSpec(mode="off", every_steps=1, max_side=SIDE, max_bytes=4096, mime_type="image/webp"),
            output=EncodeSpec(mime_type="image/png", quality=90, metadata=None),
        )  # fmt: skip
        events = []
        runtime.generate(spec, events.append, Control())
        (picture,) = [event.pixels for event in events if isinstance(event, ImageEvent)]
        return picture

    return run


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def around(picture):
    """Return a mask that covers what differs from the border, and a little more."""
    pixels = np.asarray(picture).astype(float)
    ground = np.median(pixels[:2].reshape(-1, 3), 0)
    stands_out = (np.linalg.norm(pixels - ground, axis=2) > 45).astype(np.uint8) * 255
    return Image.fromarray(stands_out).filter(ImageFilter.MaxFilter(7))


@pytest.mark.quick_cases("torch-center")
@pytest.mark.parametrize("cell", ["top left", "bottom left", "center", "bottom right"])
def test_a_circle_is_repainted_green_and_the_rest_is_the_source(draw, cell):
    from pocket_model.judge import look

    before = draw(f"a large red circle on a blue background, {cell}")
    seen = look(np.asarray(before))
    assert [(thing.shape, thing.colour, thing.cell) for thing in seen.things] == [("circle", "red", cell)]
    mask = around(before)
    edit = EditSpec(images=[png(before)], mask=png(mask), strength=0.95)
    after = draw(f"a large green circle on a blue background, {cell}", edit)
    seen = look(np.asarray(after))
    assert [(thing.shape, thing.colour, thing.cell) for thing in seen.things] == [("circle", "green", cell)]
    assert seen.background == "blue"
    kept = np.asarray(mask) == 0
    assert kept.mean() > 0.5
    np.testing.assert_array_equal(np.asarray(after)[kept], np.asarray(before)[kept])


@pytest.mark.quick_cases("torch")
def test_white_that_misses_the_grid_is_repainted_and_a_ramp_leads_from_one_picture_to_the_other(draw):
    before = draw("a large red circle on a blue background, center")
    wanted = "a large green circle on a yellow background, center"

    def masked(mask):
        return np.asarray(draw(wanted, EditSpec(images=[png(before)], mask=png(mask), strength=1.0))).astype(int)

    lines = Image.new("L", (SIDE, SIDE))
    lines.paste(255, (9, 0, 12, SIDE))  # latents stand for 4 x 4 pixels
    lines.paste(255, (65, 62, 67, 64))
    white = np.asarray(lines) == 255
    made = masked(lines)
    np.testing.assert_array_equal(made[white], masked(patches(lines, 4))[white])
    np.testing.assert_array_equal(made[~white], np.asarray(before)[~white])
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    made = masked(Image.fromarray(ramp))
    np.testing.assert_array_equal(made[:, 0], np.asarray(before)[:, 0])
    yellow = (made[:, :, :2].min(axis=2) - made[:, :, 2])[:16].mean(axis=0)  # above the circle
    assert yellow[0] < -100 < 100 < yellow[-1]
    assert (np.diff(yellow.reshape(16, -1).mean(axis=1)) > 0).all()


@pytest.mark.quick_cases("torch")
def test_less_strength_stays_closer_to_the_picture(draw):
    before = draw("a large red circle on a blue background, center")
    distances = []
    for strength in (0.2, 0.5, 0.8, 1.0):
        after = draw(
            "a small green star on a white background, top left", EditSpec(images=[png(before)], strength=strength)
        )
        distances.append(np.abs(np.asarray(after).astype(int) - np.asarray(before)).mean())
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[-1]
