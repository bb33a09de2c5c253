"""A component that is not loaded is a shell without memory."""

import pytest

from locara_sidecar.engine.staged import Key
from locara_sidecar.engine.torch_engine import weights
from support.runtimes import make_runtime, staged

pytestmark = pytest.mark.torch


def loaded(runtime):
    return set(runtime._opened.family._loaded)


@pytest.mark.parametrize("at", [60, 120, 200])
def test_a_cancel_in_a_later_stage_leaves_whole_components_only(tmp_path, run, spec, control, runtime, at):
    cold = staged(make_runtime("torch", tmp_path), encoders_leave=True)
    assert run(cold, spec(), control("loading", at)).cancelled
    for name in loaded(cold):
        assert not any(tensor.is_meta for tensor in cold._opened.family.module(name).state_dict().values())
    assert run(cold, spec()).images[0].tobytes() == run(runtime, spec()).images[0].tobytes()


def test_opening_reads_no_weights(tmp_path, spec, control):
    cold = make_runtime("torch", tmp_path)
    job = spec()
    cold._open(job.model, Key(job.model.path, job.model.digest, "float32", "none"), lambda event: None, control())
    assert loaded(cold) == set()
    assert all(tensor.is_meta for tensor in cold._opened.family.module("transformer").parameters())


def test_a_file_is_opened_anew_before_much_of_it_counts_as_own_memory(tmp_path, run, spec, runtime, monkeypatch):
    opened = []
    real = weights.safe_open
    monkeypatch.setattr(weights, "_MAPPED", 4096)
    monkeypatch.setattr(weights, "safe_open", lambda *args, **kwargs: opened.append(args[0]) or real(*args, **kwargs))
    result = run(make_runtime("torch", tmp_path), spec())
    assert len(opened) > 10 * len(set(opened))
    assert result.images[0].tobytes() == run(runtime, spec()).images[0].tobytes()
