"""Named errors, number types, and the process's memory."""

import numpy as np
import pytest

from locara_sidecar.ipc.errors import EngineError


def fault_of(runtime, run, spec):
    with pytest.raises(EngineError) as caught:
        run(runtime, spec)
    return caught.value


@pytest.fixture
def family(runtime, run, spec):
    run(runtime, spec())
    return runtime.opened.family


@pytest.mark.parametrize(("level", "colour"), [(0, (128, 128, 128)), (1, (255, 255, 255))])
def test_an_image_of_one_colour_is_an_image(runtime, run, spec, family, monkeypatch, level, colour):
    whole = family.decode
    monkeypatch.setattr(family, "decode", lambda *args, **options: whole(*args, **options) * 0 + level)
    assert run(runtime, spec()).images[0].getcolors() == [(64 * 64, colour)]


def test_an_image_that_is_black_throughout_is_refused(runtime, run, spec, family, monkeypatch):
    whole = family.decode
    monkeypatch.setattr(family, "decode", lambda *args, **options: whole(*args, **options) * 0 - 1)
    assert fault_of(runtime, run, spec()).kind == "InvalidOutput"


def test_another_error_of_the_libraries_keeps_its_type(runtime, run, spec, family, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("shapes differ")

    with monkeypatch.context() as patched:
        patched.setattr(family, "denoise", fail)
        with pytest.raises(RuntimeError, match="shapes differ"):
            run(runtime, spec())
    assert run(runtime, spec()).images


@pytest.mark.parametrize(
    "changes",
    [{"scheduler": "euler"}, {"family": "sana", "digest": "x"}],
)
def test_what_the_engine_cannot_do_is_said(runtime, run, spec, changes):
    assert fault_of(runtime, run, spec(**changes)).kind == "EngineUnavailable"


@pytest.mark.parametrize(("width", "height", "path"), [(528, 512, "$.options.width"), (64, 528, "$.options.height")])
def test_a_size_that_the_model_has_no_positions_for_is_refused(runtime, run, spec, width, height, path):
    fault = fault_of(runtime, run, spec(width=width, height=height))
    assert (fault.kind, fault.data) == ("InvalidParams", {"path": path, "maximum": 512})


def test_the_largest_size_that_the_model_has_positions_for_is_drawn(runtime, run, spec):
    assert run(runtime, spec(width=512, height=16, steps=1)).images[0].size == (512, 16)


def test_auto_precision_is_one_that_runs(runtime, run, spec):
    result = run(runtime, spec(precision="auto"))
    assert result.summary.settled.precision in ("float32", "bfloat16", "float16")
    assert result.images


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precisions_give_nearly_the_same_picture(cold, run, spec, runtime, precision):
    expected = np.asarray(run(runtime, spec()).images[0], float)
    half = np.asarray(run(cold, spec(precision=precision)).images[0], float)
    assert np.corrcoef(expected.ravel(), half.ravel())[0, 1] > 0.9


@pytest.mark.quick_cases("torch")
def test_peak_memory_is_at_least_what_the_process_holds_and_never_falls(runtime):
    before = runtime.peak_memory()
    assert before > 64 << 20
    block = bytearray(before)  # zeroed pages are never touched, so they do not count
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert runtime.peak_memory() > before
    del block
    assert runtime.peak_memory() > before
