"""A prepared form of a model gives exactly the pictures of quantizing while reading, from its own files alone."""

import shutil
from pathlib import Path

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from mlx.utils import tree_flatten

from locara_sidecar import models
from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.mlx_engine import runtime as mlx_runtime
from locara_sidecar.engine.mlx_engine.tensors import quantize
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.frames import LoadSpec, PreparedForm, PrepareSpec
from locara_sidecar.machine import plan as plans
from support.runtimes import Control

TINY = ("tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl", "tiny-z-image", "tiny-flux2")
POCKET = Path(models.__file__).parent / "pocket"


def prepare(model, into, control=None, runtime=None):
    into.mkdir(exist_ok=True)
    runtime = runtime or mlx_runtime.create()
    return runtime.prepare(PrepareSpec(job="p", model=model, into=str(into)), lambda _: None, control or Control())


def composed(folder, into, components):
    """Return the complete folder of a form: what was written, and the model's own files for the rest."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] not in components:
            (into / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into / relative)
    return into


def job(job_for, name, **changes):
    if name == "pocket":
        return job_for("tiny-sd3", **{"id": "pocket", "path": str(POCKET), "max_sequence_length": 1, **changes})
    return job_for(name, **changes)


@pytest.fixture(scope="module")
def forms(job_for, tmp_path_factory):
    """Prepared folders by model, bits and precision, each prepared once."""
    kept = {}

    def get(name, quantization, precision):
        key = name, quantization, precision
        if key not in kept:
            model = job(job_for, name, quantization=quantization, precision=precision).model
            into = tmp_path_factory.mktemp("form")
            made = prepare(model, into)
            assert (made.quantization, made.precision) == (quantization, precision)
            kept[key] = composed(Path(model.path), into, made.components)
        return PreparedForm(quantization=quantization, precision=precision, path=str(kept[key]))

    return get


@pytest.fixture
def opened(monkeypatch):
    """Record the weight files that MLX or the header reader open from now on."""
    seen = []
    real_load, real_open = mx.load, model_folder.safe_open

    def load(file, *more, **options):
        seen.append(Path(file))
        return real_load(file, *more, **options)

    def safe_open(file, *more, **options):
        seen.append(Path(file))
        return real_open(file, *more, **options)

    monkeypatch.setattr(mx, "load", load)
    monkeypatch.setattr(model_folder, "safe_open", safe_open)
    monkeypatch.setattr("locara_sidecar.engine.drawing.parts.safe_open", safe_open)
    return seen


@pytest.mark.quick_cases("tiny-sd3-8bit", "tiny-flux-dev", "tiny-sdxl-4bit")
@pytest.mark.parametrize(
    ("name", "quantization", "precision"),
    [
        *((name, "4bit", "bfloat16") for name in (*TINY, "pocket")),
        *((name, "8bit", "float32") for name in (*TINY, "pocket")),
        ("tiny-sd3", "4bit", "float16"),  # then T5 computes in bfloat16
    ],
)
def test_a_prepared_form_draws_the_very_same_picture_and_the_models_own_files_are_not_opened(
    run, job_for, forms, opened, name, quantization, precision
):
    spec = job(job_for, name, quantization=quantization, precision=precision, steps=2)
    expected = run(mlx_runtime.create(), spec)
    form = forms(name, quantization, precision)
    del opened[:]
    found = run(mlx_runtime.create(), with_forms(spec, form))
    assert (np.asarray(found.images[0]) == np.asarray(expected.images[0])).all()
    assert found.summary.settled == expected.summary.settled
    assert opened
    assert all(path.is_relative_to(form.path) for path in opened)


def with_forms(spec, *forms, **changes):
    return msgspec.structs.replace(spec, model=msgspec.structs.replace(spec.model, prepared=list(forms), **changes))


@pytest.mark.slow
def test_the_choice_between_bits_is_the_same_and_takes_the_form_of_its_bits(run, job_for, forms, opened, monkeypatch):
    spec = job(job_for, "pocket", quantization="auto", precision="float32", steps=1)
    parts = opened_family(spec).parts
    sizes = {bits: sum(plans.weight_bytes(part, bits, "float32") for part in parts) for bits in plans.QUANTIZATIONS}
    assert sizes["4bit"] < sizes["8bit"] < sizes["none"]
    both = [forms("pocket", bits, "float32") for bits in ("4bit", "8bit")]
    require = plans.require
    for bits, folder in (("none", spec.model.path), ("8bit", both[1].path), ("4bit", both[0].path)):
        monkeypatch.setattr(
            plans, "require", lambda parts, ask, machine, bits=bits: require(
                parts, msgspec.structs.replace(ask, quantization=bits), machine
            )
        )  # fmt: skip
        del opened[:]
        result = run(mlx_runtime.create(), with_forms(spec, *both))
        assert result.summary.settled.quantization == bits
        read = {path for path in opened if "transformer" in path.parts}
        assert any(path.is_relative_to(folder) for path in read)
        if bits != "none":
            assert not any(path.is_relative_to(spec.model.path) for path in read)


def opened_family(spec):
    runtime = mlx_runtime.create()
    runtime.load(LoadSpec(job="l", model=spec.model, width=64, height=64), lambda _: None, Control())
    return runtime.opened.family


@pytest.mark.parametrize("name", [*TINY, "pocket"])
def test_the_memory_plan_knows_a_form_as_it_knows_its_model(job_for, forms, name):
    spec = job(job_for, name, quantization="4bit", precision="float32")
    own = opened_family(spec).parts
    kept = opened_family(with_forms(spec, forms(name, "4bit", "float32"))).parts
    assert [(part.name, part.role, part.width, part.stride) for part in kept] == [
        (part.name, part.role, part.width, part.stride) for part in own
    ]
    # but for a tensor here and there that no module has a use for
    for part, of_model in zip(kept, own, strict=True):
        assert part.parameters == pytest.approx(of_model.parameters, rel=0.02)
        assert part.quantizable == pytest.approx(of_model.quantizable, rel=0.02)


def test_a_form_of_another_precision_is_passed_over(run, job_for, forms, opened):
    spec = job(job_for, "tiny-sd3", quantization="4bit", precision="float32", steps=1)
    expected = run(mlx_runtime.create(), spec)
    form = forms("tiny-sd3", "4bit", "bfloat16")
    del opened[:]
    found = run(mlx_runtime.create(), with_forms(spec, form))
    assert (np.asarray(found.images[0]) == np.asarray(expected.images[0])).all()
    assert not any(path.is_relative_to(form.path) for path in opened)


def test_a_model_that_is_loaded_is_not_loaded_again_when_a_form_appears(run, job_for, forms):
    runtime = mlx_runtime.create()
    spec = job(job_for, "tiny-sd3", quantization="4bit", precision="float32", steps=1)
    run(runtime, spec)
    again = run(runtime, with_forms(spec, forms("tiny-sd3", "4bit", "float32")))
    assert "loading" not in [phase for phase, _ in again.phases]


def test_what_is_prepared_already_is_told_and_not_made_again(job_for, forms, tmp_path):
    form = forms("tiny-sd3", "8bit", "float32")
    spec = with_forms(job(job_for, "tiny-sd3", quantization="8bit", precision="auto"), form)
    made = prepare(spec.model, tmp_path / "into")
    assert (made.there, made.components, made.precision) == (form.path, [], "float32")
    assert list((tmp_path / "into").iterdir()) == []


def test_only_the_components_that_change_are_written(job_for, tmp_path):
    made = prepare(job(job_for, "pocket", quantization="4bit").model, tmp_path)
    assert made.components == ["transformer"]
    assert [path.name for path in tmp_path.iterdir()] == ["transformer"]
    written = {path.name for path in (tmp_path / "transformer").iterdir()}
    assert {"config.json", "diffusion_pytorch_model-00001-of-00001.safetensors"} < written


@pytest.mark.slow
def test_the_size_that_is_checked_before_is_the_size_that_is_written(job_for, tmp_path, monkeypatch):
    told = []
    real = shutil.disk_usage
    monkeypatch.setattr(
        mlx_runtime.MlxBackend, "_require_room", lambda self, family, model, key, size, into: told.append(size)
    )
    for name in TINY:
        into = tmp_path / name
        prepare(job(job_for, name, quantization="4bit", precision="bfloat16").model, into)
        files = list(into.rglob("*.safetensors"))
        headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
        assert sum(path.stat().st_size for path in files) - headers == told[-1]
    assert real is shutil.disk_usage


def test_a_disk_that_is_too_small_is_told_with_the_figures_before_anything_is_read(
    job_for, tmp_path, monkeypatch, opened
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(mlx_runtime.disk_space.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(mx, "load", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(EngineError) as caught:
        prepare(job(job_for, "pocket", quantization="4bit").model, tmp_path / "into")
    assert caught.value.kind == "InsufficientDisk"
    assert caught.value.data["needed"] > caught.value.data["available"] == 1000
    assert list((tmp_path / "into").iterdir()) == []


def test_too_little_memory_is_told_with_the_figures(job_for, tmp_path, monkeypatch):
    monkeypatch.setattr(mlx_runtime.machines, "limit", lambda _: 1 << 20)
    with pytest.raises(EngineError) as caught:
        prepare(job(job_for, "pocket", quantization="4bit").model, tmp_path / "into")
    assert caught.value.kind == "InsufficientMemory"
    assert caught.value.data["needed"] > caught.value.data["available"] == 1 << 20


@pytest.mark.parametrize(("free", "kind"), [(0, "InsufficientDisk"), (1 << 40, "StorageError")])
def test_a_write_that_fails_has_its_name(job_for, tmp_path, monkeypatch, free, kind):
    def fail(*_):
        raise RuntimeError("[write] Unable to write 5902944 bytes to file.")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(mx, "save_safetensors", fail)
    monkeypatch.setattr(mlx_runtime.MlxBackend, "_require_room", lambda *_: None)
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(EngineError) as caught:
        prepare(job(job_for, "pocket", quantization="4bit").model, tmp_path / "into")
    assert caught.value.kind == kind


@pytest.mark.parametrize("at", [1, 40])
def test_a_cancel_while_preparing_stops_it(job_for, tmp_path, at):
    control = Control(None, at)
    with pytest.raises(JobCancelled):
        prepare(job(job_for, "pocket", quantization="4bit").model, tmp_path / "into", control)


def test_a_model_without_layers_to_quantize_is_refused(job_for, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "is_repeated", lambda network, path: False)
    with pytest.raises(EngineError) as caught:
        prepare(job(job_for, "tiny-sd3", quantization="4bit").model, tmp_path / "into")
    assert caught.value.kind == "EngineUnavailable"


def test_preparing_is_planned_with_the_largest_component_and_a_form_without_the_copy_of_a_tensor():
    parts = [
        plans.Part(name="te", role="encoder", parameters=4 * 10**9, quantizable=4 * 10**9),
        plans.Part(name="t", role="denoiser", parameters=12 * 10**9, quantizable=12 * 10**9, width=3072),
        plans.Part(name="vae", role="decoder", parameters=80_000_000, width=128),
    ]
    base = plans.preparing(parts, "4bit", "bfloat16", "gpu")
    assert 12e9 * 4.5 / 8 < base < 12e9 * 4.5 / 8 + 3e9
    ask = plans.PlanRequest(width=512, height=512, precision="bfloat16", quantization="4bit")
    machine = plans.Machine(kind="unified", total=64 << 30, available=60 << 30)
    kept = msgspec.structs.replace(ask, prepared=frozenset({"4bit"}))
    reading, mapped = (plans.require(parts, wanted, machine).peak for wanted in (ask, kept))
    assert 1e9 < reading - mapped < 3e9
    other = msgspec.structs.replace(ask, prepared=frozenset({"8bit"}))
    assert plans.require(parts, other, machine).peak == reading


def test_reading_a_form_peaks_at_its_own_size(job_for, forms):
    """By MLX's own count, so a temporary copy of the weights would show."""
    spec = with_forms(
        job(job_for, "pocket", quantization="4bit", precision="float32"), forms("pocket", "4bit", "float32")
    )
    family = opened_family(spec)
    family.drop({"transformer"})
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    family.load({"transformer"}, model_folder.Progress(1, lambda _: None, lambda: None))
    held = mx.get_active_memory() - before
    largest = max(value.nbytes for _, value in tree_flatten(family.module("transformer").parameters()))
    assert mx.get_peak_memory() - before <= held + 1.1 * largest
