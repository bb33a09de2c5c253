"""Edits on every engine: how many steps run, which size counts, what is refused, and that nothing is left behind."""

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine.drawing import strips
from locara_sidecar.engine.drawing.strips import Strips
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.frames import EditSpec
from locara_sidecar.machine import plan
from support.edits import edit, patches, photo, stencil
from support.image_files import encoded

STRENGTH = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-sdxl", "tiny-z-image"]
"""Those that an edit starts from its picture with."""
INSTRUCTED = ["tiny-flux-kontext", "tiny-flux2"]
"""Those that look at it and follow an instruction."""


@pytest.mark.parametrize("model", INSTRUCTED)
def test_a_model_that_follows_an_instruction_takes_no_mask(runtimes, run, job_for, model):
    with pytest.raises(EngineError) as caught:
        run(runtimes(model), job_for(model, edit=edit(mask=stencil(), strength=None)))
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", "$.mask")


@pytest.mark.parametrize(
    ("model", "steps", "strength", "run_steps"),
    [
        ("tiny-sd3", 10, 0.6, 6),
        ("tiny-sd3", 4, 0.6, 3),
        ("tiny-flux", 4, 1.0, 4),
        ("tiny-flux", 4, 0.01, 1),
        ("tiny-flux", 1, 0.6, 1),
        ("tiny-sdxl", 4, 0.6, 2),
        ("tiny-sdxl", 4, 0.01, 1),
        ("tiny-sdxl", 1, 0.5, 1),
        ("tiny-sdxl", 49, 0.001, 1),
        ("tiny-sd3", 9, 1e-17, 1),
    ],
)
@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
def test_strength_decides_how_many_steps_really_run(runtimes, run, job_for, model, steps, strength, run_steps, mask):
    result = run(runtimes(model), job_for(model, steps=steps, edit=edit(mask=mask, strength=strength)))
    assert [(step.step, step.steps) for step in result.steps] == [(k, run_steps) for k in range(1, run_steps + 1)]


def test_an_edit_leaves_nothing_behind_for_the_next_job(runtimes, run, job_for, model):
    before = run(runtimes(model), job_for(model)).images[0].tobytes()
    run(runtimes(model), job_for(model, edit=edit(strength=None if model in INSTRUCTED else 0.3)))
    after = run(runtimes(model), job_for(model))
    assert after.images[0].tobytes() == before
    assert [step.steps for step in after.steps] == [3] * 3


@pytest.mark.slow
def test_image_k_of_an_edit_is_the_edit_of_seed_plus_k_minus_1(runtimes, run, job_for):
    together = run(runtimes("tiny-sd3"), job_for("tiny-sd3", count=2, seed=40, edit=edit(mask=stencil())))
    alone = [run(runtimes("tiny-sd3"), job_for("tiny-sd3", seed=seed, edit=edit(mask=stencil()))) for seed in (40, 41)]
    assert [image.tobytes() for image in together.images] == [result.images[0].tobytes() for result in alone]


def test_the_sources_size_is_the_jobs_where_none_is_named(runtimes, run, job_for):
    result = run(runtimes("tiny-sd3"), job_for("tiny-sd3", width=0, height=0, edit=edit(photo(96, 32))))
    assert result.images[0].size == (96, 32)
    assert (result.summary.settled.width, result.summary.settled.height) == (96, 32)
    resized = run(runtimes("tiny-sd3"), job_for("tiny-sd3", width=48, height=48, edit=edit(photo(96, 32))))
    assert resized.images[0].size == (48, 48)


def test_the_memory_plan_is_told_the_size_of_what_is_edited(runtimes, run, job_for, monkeypatch):
    asked = []
    choose = plan.choose
    monkeypatch.setattr(plan, "choose", lambda parts, ask, machine: asked.append(ask) or choose(parts, ask, machine))
    run(runtimes("tiny-flux-kontext"), job_for("tiny-flux-kontext"))
    assert {one.references for one in asked} == {()}
    asked.clear()
    run(runtimes("tiny-flux-kontext"), job_for("tiny-flux-kontext", width=48, height=64, edit=edit(strength=None)))
    assert {one.references for one in asked} == {((48, 64),)}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (EditSpec(images=[b"nothing"], strength=0.5), "InvalidImage"),
        (edit(photo(72, 40)), "InvalidParams"),
        (edit(mask=Image.new("L", (32, 32))), "InvalidImage"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_loaded(cold, run, job_for, given, kind):
    spec, events = job_for("tiny-sd3", width=0, height=0, edit=given), []
    with pytest.raises(EngineError) as caught:
        run(cold, spec, on_event=events.append)
    assert (caught.value.kind, events) == (kind, [])


def line_and_dot():
    mask = Image.new("L", (64, 64))
    mask.paste(255, (9, 3, 16, 60))  # 7 columns that begin one pixel after the start of a patch
    mask.paste(255, (33, 33, 39, 39))  # 6 x 6 inside a patch
    mask.paste(255, (63, 63, 64, 64))
    return mask


@pytest.mark.parametrize("model", STRENGTH)
def test_white_that_misses_the_grid_of_the_latents_is_repainted(runtimes, run, job_for, model):
    mask = line_and_dot()
    mine, whole = (
        np.array(run(runtimes(model), job_for(model, steps=2, edit=edit(mask=given, strength=1.0))).images[0])
        for given in (mask, patches(mask))
    )
    white = np.array(mask) == 255
    np.testing.assert_array_equal(mine[white], whole[white])
    np.testing.assert_array_equal(mine[~white], np.array(photo())[~white])
    assert (mine[white] != np.array(photo())[white]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-sdxl"])
def test_a_grey_mask_mixes_what_is_painted_with_the_source_in_proportion(runtimes, run, job_for, model):
    levels = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    levels[:, 0], levels[:, -1], levels[5, :] = 0, 255, 1
    soft = Image.fromarray(levels)
    mixed, painted = (
        np.array(run(runtimes(model), job_for(model, steps=2, edit=edit(mask=given))).images[0]).astype(float)
        for given in (soft, patches(soft))
    )
    share, own = levels[..., None] / 255, np.array(photo())
    # patches of the darkest grey are painted like white ones, so both runs paint the same
    assert np.abs(mixed - (painted * share + own * (1 - share))).max() <= 0.51 + 1 / 255
    np.testing.assert_array_equal(mixed[levels == 0], own[levels == 0])
    np.testing.assert_array_equal(mixed[levels == 255], painted[levels == 255])


def test_a_mask_that_is_resized_keeps_its_thin_lines(runtimes, run, job_for):
    mask, spec = Image.new("L", (128, 128)), {"width": 64, "height": 64, "steps": 2}
    mask.paste(255, (40, 0, 41, 128))
    own = np.array(
        run(
            runtimes("tiny-sd3"), job_for("tiny-sd3", **spec, edit=edit(photo(128, 128), Image.new("L", (128, 128))))
        ).images[0]
    )
    made = np.array(
        run(runtimes("tiny-sd3"), job_for("tiny-sd3", **spec, edit=edit(photo(128, 128), mask, 1.0))).images[0]
    )
    assert np.unique(np.argwhere((made != own).any(axis=2))[:, 1]).tolist() == [20]


def test_a_profile_that_was_not_applied_is_told(runtimes, run, job_for):
    given = EditSpec(images=[encoded(photo(), icc_profile=b"no profile")], strength=0.5)
    (warning,) = run(runtimes("tiny-sd3"), job_for("tiny-sd3", steps=1, edit=given)).summary.warnings
    assert warning[0] == "ColourProfileIgnored"


@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
@pytest.mark.parametrize("model", STRENGTH)
def test_a_cancel_while_the_source_is_encoded_changes_nothing_after_it(runtimes, run, job_for, control, model, mask):
    spec = job_for(model, edit=edit(mask=mask))
    expected = run(runtimes(model), spec).images[0].tobytes()
    stopped = run(runtimes(model), spec, control("denoising", 3))  # the encoder's first convolutions
    assert stopped.cancelled
    assert not stopped.steps
    assert run(runtimes(model), spec).images[0].tobytes() == expected


@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-flux-kontext", "tiny-sdxl", "tiny-flux2"])
def test_an_edit_encodes_and_decodes_in_strips_where_it_is_to_and_is_the_same(
    runtimes, run, job_for, model, monkeypatch
):
    """The first step's prediction already depends on how the picture was encoded."""
    done, halved, enlarged = [], Strips.halved, Strips.enlarged
    monkeypatch.setattr(strips, "NUMBERS", 1)
    monkeypatch.setattr(Strips, "halved", lambda self, layer, x: done.append("encoded") or halved(self, layer, x))
    monkeypatch.setattr(Strips, "enlarged", lambda self, layer, x: done.append("decoded") or enlarged(self, layer, x))
    strength = None if model in INSTRUCTED else 0.3
    spec = {"width": 272, "height": 64, "steps": 4, "edit": edit(photo(272, 64), strength=strength)}
    runtime = runtimes(model)
    plain = run(runtime, job_for(model, tiling="off", **spec))
    assert not done
    tiled = run(runtime, job_for(model, tiling="on", **spec))
    assert set(done) == {"encoded", "decoded"}
    done.clear()
    again = run(runtime, job_for(model, tiling="off", **spec))
    assert not done
    assert again.images[0].tobytes() == plain.images[0].tobytes()
    predicted = [np.array(result.steps[0].x0.tolist()) for result in (plain, tiled)]
    np.testing.assert_allclose(*predicted, atol=1e-4)
    difference = np.array(plain.images[0]).astype(int) - np.array(tiled.images[0])
    assert np.abs(difference).max() <= 1


@pytest.mark.slow
def test_the_open_model_leaves_for_a_picture_that_needs_its_memory(cold, run, job_for, monkeypatch):
    """What still does not fit is refused with the figures, before it is decoded."""
    run(cold, job_for("tiny-sd3"))
    rooms = iter([0, 1 << 40])
    monkeypatch.setattr(plan, "room", lambda *_: next(rooms))
    result = run(cold, job_for("tiny-sd3", edit=edit()))
    assert ("loading", 1) in result.phases
    assert list(rooms) == []
    monkeypatch.undo()
    with pytest.raises(EngineError) as caught:
        run(cold, job_for("tiny-sd3", edit=edit(), reserved=1 << 50))
    assert (caught.value.kind, caught.value.data["path"]) == ("InsufficientMemory", "$.image")
    assert cold.opened is None
    assert run(cold, job_for("tiny-sd3")).images
