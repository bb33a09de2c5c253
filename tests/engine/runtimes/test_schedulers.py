"""SDXL's schedulers on every engine give diffusers' own pictures, by the catalogue's names and from folders."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.engine.folder import schedulers
from locara_sidecar.ipc.errors import EngineError
from support import diffusers_reference as reference
from support.diffusers_reference import IMAGE, INPAINT, TEXT
from support.edits import edit, photo, stencil
from support.fixture_models import MODELS
from support.schedulers import CHANGES, EULER, MULTISTEP, REFUSED, SDXL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
MODEL = "tiny-sdxl"
NAMED = [
    *((name, TEXT) for name in schedulers.SCALED_NOISE),
    *((name, way) for name in ("euler", "euler-ancestral", "dpmpp-2m", "dpmpp-2m-sde") for way in (IMAGE, INPAINT)),
]
FOLDERS = {
    **{
        f"Euler: {name}": (schedulers.EULER, (CHANGES | EULER)[name])
        for name in (
            *("as published", "v_prediction", "zero SNR", "linear betas"),
            *("sample", "Karras within bounds", "exponential", "a last level"),
        )
    },
    "ancestral: zero SNR": (schedulers.ANCESTRAL, CHANGES["zero SNR"]),
    **{
        f"multistep: {name}": (schedulers.MULTISTEP, MULTISTEP[name])
        for name in ("third order", "Heun", "stochastic, third order", "zero SNR")
    },
}
"""A few of the cases whose steps ``tests/engine/mlx/test_solvers.py`` checks one by one."""
OWN = {schedulers.EULER: "euler", schedulers.ANCESTRAL: "euler-ancestral", schedulers.MULTISTEP: "dpm-multistep"}
"""The catalogue's name for a class with the folder's own settings."""


@pytest.fixture
def folder_with(tmp_path):
    """Make a copy of the fixture with another scheduler."""

    def make(class_name, changes):
        folder = tmp_path / "model"
        shutil.copytree(MODELS / MODEL, folder)
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", class_name]
        (folder / "model_index.json").write_text(json.dumps(index))
        described = {**SDXL, "_class_name": class_name, **changes}
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(described))
        return folder

    return make


@pytest.fixture
def pipeline_of():
    """Return diffusers' pipeline with a folder's scheduler, or with another one made from it."""

    def make(way, folder, class_name, name):
        import diffusers

        pipe = reference.pipeline(MODEL, way)
        kept = pipe.scheduler, vars(pipe).pop("_own_scheduler", None)
        pipe.scheduler = getattr(diffusers, class_name).from_pretrained(str(folder / "scheduler"))
        reference.with_scheduler(pipe, name)
        restored.append((pipe, kept))
        return pipe

    restored = []
    yield make
    for pipe, (scheduler, own) in reversed(restored):
        pipe.scheduler = scheduler
        vars(pipe)["_own_scheduler"] = own


def same(engine, mine, theirs):
    """Check that torch's pictures equal diffusers' to the bit, and MLX's within two levels."""
    ours, other = (np.array(picture).astype(int) for picture in (mine, theirs))
    assert np.abs(ours - other).max() <= (0 if engine == "torch" else 2)


def job_of(job_for, way, **changes):
    edits = {TEXT: None, IMAGE: edit(photo(96)), INPAINT: edit(photo(96), stencil(96))}
    return job_for(MODEL, width=96, steps=5, edit=edits[way], **changes)


def theirs_of(spec, way, **more):
    more |= {} if way == TEXT else {"image": photo(96), "strength": 0.6}
    more |= {"mask_image": stencil(96)} if way == INPAINT else {}
    made = reference.picture(MODEL, spec, way, **more)
    return Image.composite(made, photo(96), stencil(96)) if way == INPAINT else made


@pytest.mark.quick_cases(
    "torch-euler-trailing-0",
    "mlx-euler-karras-0",
    "mlx-dpmpp-2m-0",
    "torch-dpmpp-2m-sde-1",
    "euler-ancestral-2",
    "torch-dpm-multistep-0",
)
@pytest.mark.parametrize(("name", "way"), NAMED)
def test_a_picture_with_a_named_scheduler_is_diffusers(engine, runtimes, run, job_for, pipeline_of, name, way):
    spec = job_of(job_for, way, scheduler=name, guidance=3.0, negative_prompt="the green dog")
    result = run(runtimes(MODEL), spec)
    pipeline_of(way, MODELS / MODEL, schedulers.EULER, name)
    with reference.drawing(MODEL, way, spec.seed):
        same(engine, result.images[0], theirs_of(spec, way))
    assert [step.step for step in result.steps] == list(range(1, len(result.steps) + 1))


@pytest.mark.quick_cases("v_prediction", "ancestral: zero", "multistep: Heun")
@pytest.mark.parametrize(("class_name", "changes"), FOLDERS.values(), ids=FOLDERS)
def test_a_picture_with_a_folders_own_scheduler_is_diffusers(
    engine, cold, run, job_for, folder_with, pipeline_of, class_name, changes
):
    folder, name = folder_with(class_name, changes), OWN[class_name]
    spec = job_of(job_for, TEXT, scheduler=name, path=str(folder))
    result = run(cold, spec)
    pipeline_of(TEXT, folder, class_name, name)
    with reference.drawing(MODEL, TEXT, spec.seed):
        same(engine, result.images[0], theirs_of(spec, TEXT))


@pytest.mark.quick_cases("euler-ancestral", "torch-dpmpp-2m-sde-karras")
@pytest.mark.parametrize("name", ["euler-ancestral", "dpmpp-2m-sde", "dpmpp-2m-sde-karras"])
def test_the_noise_of_every_step_follows_the_seed_as_with_torchs_generator(
    engine, runtimes, run, job_for, pipeline_of, name
):
    spec = job_of(job_for, TEXT, scheduler=name, seed=2**40 + 12)
    pictures = [run(runtimes(MODEL), spec).images[0] for _ in range(2)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    pipeline_of(TEXT, MODELS / MODEL, schedulers.EULER, name)
    theirs = theirs_of(spec, TEXT, generator=torch.Generator().manual_seed(spec.seed))
    ours = np.array(pictures[0]).astype(int)
    assert np.abs(ours - np.array(theirs)).max() <= (1 if engine == "torch" else 2)
    other = run(runtimes(MODEL), job_of(job_for, TEXT, scheduler=name, seed=13)).images[0]
    assert other.tobytes() != pictures[0].tobytes()


@pytest.mark.parametrize("name", ["euler", "euler-ancestral", "dpmpp-2m", "dpmpp-2m-sde"])
def test_a_steps_preview_shows_what_it_predicts_and_the_last_one_the_picture(runtimes, run, job_for, name):
    result = run(runtimes(MODEL), job_of(job_for, TEXT, scheduler=name))
    last, _ = runtimes(MODEL).preview(result.steps[-1].x0, "full", 256)
    assert np.abs(np.array(last).astype(int) - np.array(result.images[0])).max() <= 1
    assert {step.steps for step in result.steps} == {5}


def test_the_scheduler_of_one_job_is_not_the_next_ones(runtimes, run, job_for):
    before = run(runtimes(MODEL), job_of(job_for, TEXT)).images[0].tobytes()
    other = run(runtimes(MODEL), job_of(job_for, TEXT, scheduler="dpmpp-2m")).images[0].tobytes()
    assert other != before
    assert run(runtimes(MODEL), job_of(job_for, TEXT)).images[0].tobytes() == before


def test_guidance_leads_away_from_nothing_where_no_negative_prompt_is_given(
    engine, cold, runtimes, run, job_for, pipeline_of, folder_with
):
    """Away from zeros, or from an empty text if the model says so."""
    folder = folder_with(schedulers.EULER, {})
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    spec = job_of(job_for, TEXT, guidance=6.0)
    pipeline_of(TEXT, folder, schedulers.EULER, "euler-trailing")
    pictures = []
    for runtime, path, negative in ((runtimes(MODEL), None, None), (cold, str(folder), "")):
        mine = run(runtime, job_of(job_for, TEXT, guidance=6.0, **({} if path is None else {"path": path}))).images[0]
        with reference.drawing(MODEL, TEXT, spec.seed):
            same(engine, mine, theirs_of(spec, TEXT, negative_prompt=negative))
        pictures.append(mine.tobytes())
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(("class_name", "changes"), REFUSED[::5])
def test_a_switch_that_is_not_run_is_refused_before_weights_are_read(
    cold, run, job_for, folder_with, class_name, changes
):
    events = []
    spec = job_of(job_for, TEXT, scheduler=OWN[class_name], path=str(folder_with(class_name, changes)))
    with pytest.raises(EngineError) as caught:
        run(cold, spec, on_event=events.append)
    assert caught.value.kind == "IntegrityError"
    assert caught.value.data["files"] == ["scheduler/scheduler_config.json"]
    assert any(name in str(caught.value) for name in changes)
    assert {(event.phase, event.fraction) for event in events} == {("loading", 0.0)}


@pytest.mark.parametrize(
    ("class_name", "changes", "asked", "others"),
    [
        (schedulers.EULER, {"prediction_type": "sample"}, "euler-ancestral", {"euler", "euler-trailing", "dpmpp-2m"}),
        (schedulers.EULER, {"prediction_type": "original_sample"}, "dpmpp-2m", {"euler", "euler-karras"}),
        (schedulers.EULER, {"thresholding": True}, "dpmpp-2m-sde", {"euler", "euler-ancestral"}),
        (schedulers.EULER, {"use_exponential_sigmas": True, "sigma_min": 0.1}, "heun", None),
        (schedulers.ANCESTRAL, {"interpolation_type": "log_linear"}, "euler", {"euler-ancestral", "dpmpp-2m"}),
        (schedulers.MULTISTEP, {"prediction_type": "sample"}, "euler-ancestral", {"dpm-multistep", "euler"}),
    ],
)
def test_a_scheduler_that_the_folder_cannot_be_drawn_with_is_told_with_those_that_it_can_before_weights_are_read(
    cold, run, job_for, folder_with, class_name, changes, asked, others
):
    path, events = str(folder_with(class_name, changes)), []
    with pytest.raises(EngineError) as caught:
        run(cold, job_of(job_for, TEXT, scheduler=asked, path=path), on_event=events.append)
    assert {(event.phase, event.fraction) for event in events} == {("loading", 0.0)}
    assert cold.opened.family.missing({"unet"})
    fault = caught.value
    if others is None:  # no engine has that name
        assert fault.kind == "EngineUnavailable"
        return
    assert (fault.kind, fault.data["path"]) == ("InvalidParams", "$.options.scheduler")
    assert set(fault.data["allowed"]) >= others
    assert asked not in fault.data["allowed"]
    assert asked in fault.message
    assert next(iter(changes)) in fault.message
    for name in fault.data["allowed"]:
        assert name in fault.message
        cold.warm.choose_scheduler(cold.opened.family, job_of(job_for, TEXT).model, name)
    if changes == {"prediction_type": "sample"}:
        assert run(cold, job_of(job_for, TEXT, scheduler=sorted(others)[0], path=path)).images


def test_of_the_schedulers_that_would_do_only_those_of_the_models_entry_are_told(cold, run, job_for, folder_with):
    path = str(folder_with(schedulers.EULER, {"prediction_type": "sample"}))
    known = ["euler-ancestral", "euler-karras", "heun", "euler"]
    with pytest.raises(EngineError) as caught:
        run(cold, job_of(job_for, TEXT, scheduler="euler-ancestral", path=path, schedulers=known))
    assert caught.value.data["allowed"] == ["euler-karras", "euler"]
    with pytest.raises(EngineError) as caught:  # the job could not choose another one
        run(cold, job_of(job_for, TEXT, scheduler="euler-ancestral", path=path, schedulers=known[:1]))
    assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize("class_name", ["EDMDPMSolverMultistepScheduler", "PNDMScheduler", "LCMScheduler"])
def test_another_class_is_refused_with_those_that_would_do(cold, run, job_for, folder_with, class_name):
    with pytest.raises(EngineError) as caught:
        run(cold, job_of(job_for, TEXT, path=str(folder_with(class_name, {}))))
    assert caught.value.kind == "IntegrityError"
    assert all(name in str(caught.value) for name in (class_name, *schedulers.CONFIGS))


def test_a_name_that_the_engine_does_not_run_is_answered_with_those_that_it_does(runtimes, run, job_for):
    with pytest.raises(EngineError) as caught:
        run(runtimes(MODEL), job_of(job_for, TEXT, scheduler="heun"))
    assert caught.value.kind == "EngineUnavailable"
    assert all(name in str(caught.value) for name in schedulers.SCALED_NOISE)
