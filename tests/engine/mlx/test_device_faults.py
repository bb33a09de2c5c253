"""What MLX says when Metal fails, on a simulated Metal with the texts of MLX's source (backend/metal) and issues."""

import os

import mlx.core as mx
import pytest

from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine import runtime as runtimes
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError, wrong_with
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine.plan import Limits

pytestmark = pytest.mark.mlx

REFUSED = "[METAL] Command buffer execution failed: {}."
MEMORY = REFUSED.format("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)")
SCREEN = REFUSED.format("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)")
MANY = "[metal::malloc] Resource limit (499000) exceeded."
TOO_LONG = REFUSED.format("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)")


class PlayedMetal:
    """A device that keeps its errors and raises each one once, at the next wait, like MLX's command encoder."""

    def __init__(self, *errors):
        self.kept = list(errors)
        self.waits = 0

    def synchronize(self):
        self.waits += 1
        if self.kept:
            raise RuntimeError(self.kept.pop(0))


@pytest.fixture
def metal(monkeypatch):
    def play(*errors):
        played = PlayedMetal(*errors)
        monkeypatch.setattr(mx, "synchronize", played.synchronize)
        return played

    return play


def working(control, error=None):
    with runtimes.MlxBackend().working(control()):
        if error is not None:
            raise error


@pytest.mark.parametrize("kept", [(), (MEMORY,), (MEMORY, MEMORY)])
def test_a_fault_keeps_its_name_when_the_device_says_it_once_more_while_it_is_waited_for(metal, control, kept):
    played = metal(*kept)
    with pytest.raises(EngineError) as caught:
        working(control, RuntimeError(MEMORY))
    assert caught.value.kind == "InsufficientMemory"
    assert played.kept == [], "nothing is left for the next job"


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        (MEMORY, None),
        (MANY, None),
        ("[malloc] Unable to allocate 5368709120 bytes.", 5368709120),
        (
            "[metal::malloc] Attempting to allocate 34359738368 bytes which is greater than the maximum allowed buffer"
            " size of 28991029248 bytes.",
            34359738368,
        ),
    ],
)
def test_each_way_in_which_metal_says_that_there_is_no_memory_is_one_fault(metal, control, said, needed):
    metal()
    with pytest.raises(EngineError) as caught:
        working(control, RuntimeError(said))
    fault = caught.value
    assert (fault.kind, fault.data.get("needed")) == ("InsufficientMemory", needed)
    assert wrong_with(fault.kind, fault.message, fault.data) is None


def test_a_cancelled_job_is_cancelled_whatever_the_device_says_then(metal, control):
    played = metal(SCREEN)
    with pytest.raises(JobCancelled):
        working(control, JobCancelled())
    assert played.waits == 2


def test_a_fault_that_only_shows_at_the_end_is_named_too(metal, control):
    metal(MEMORY)
    with pytest.raises(EngineError) as caught:
        working(control)
    assert caught.value.kind == "InsufficientMemory"
    working(control)


@pytest.mark.parametrize("said", [SCREEN, TOO_LONG])
def test_work_that_the_system_ended_is_named_may_be_tried_again_and_says_what_helps(metal, control, said):
    metal()
    with pytest.raises(EngineError) as caught:
        working(control, RuntimeError(said))
    fault = caught.value
    assert (fault.kind, fault.data["reason"], fault.data["retryable"]) == ("EngineUnavailable", "gpuInterrupted", True)
    assert "a smaller picture" in fault.data["suggestions"]
    assert wrong_with(fault.kind, fault.message, fault.data) is None, "and the daemon believes it"


def test_what_has_no_name_stays_what_it_is(metal, control):
    metal()
    with pytest.raises(RuntimeError, match="broadcast"):
        working(control, RuntimeError("[broadcast_shapes] Shapes cannot be broadcast."))


def test_an_engine_whose_device_cannot_compute_does_not_start(monkeypatch):
    device.require_computing()
    said = "[metal::Device] Unable to load kernel vv_Add\nand a second line"
    monkeypatch.setattr(mx, "eval", lambda *_: (_ for _ in ()).throw(RuntimeError(said)))
    with pytest.raises(EngineError) as caught:
        runtimes.create()
    assert caught.value.kind == "EngineUnavailable"
    assert "Unable to load kernel vv_Add" in caught.value.message
    assert "second" not in caught.value.message


def test_one_computation_is_compiled_when_it_is_tried(monkeypatch):
    compiled = []
    monkeypatch.setattr(mx, "compile", lambda function: compiled.append(function) or function)
    device.require_computing()
    assert len(compiled) == 1


def test_float32_means_float32_unless_somebody_says_otherwise(monkeypatch):
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    runtimes.MlxBackend()
    assert os.environ["MLX_ENABLE_TF32"] == "0"
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    runtimes.MlxBackend()
    assert os.environ["MLX_ENABLE_TF32"] == "1"


def test_weights_are_kept_in_memory_for_the_time_of_a_job_and_no_longer(monkeypatch, control):
    told = []
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12 << 30})
    monkeypatch.setattr(mx, "set_wired_limit", told.append)
    monkeypatch.setattr(device, "choose_device", lambda: "metal")
    backend = runtimes.MlxBackend()
    with backend.working(control()):
        backend.limit(Limits(memory=10 << 30, cache=1))
        backend.limit(Limits(memory=20 << 30, cache=1))
    with pytest.raises(JobCancelled), backend.working(control()):
        raise JobCancelled
    assert told == [10 << 30, 12 << 30, 0, 0]
    assert backend.machine(0).working_set == 12 << 30
    assert (
        machines.capacity(machines.Machine(kind="unified", total=16 << 30, available=0, working_set=12 << 30))
        == 12 << 30
    )


def test_a_system_that_keeps_nothing_resident_is_no_fault(monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12 << 30})
    monkeypatch.setattr(
        mx, "set_wired_limit", lambda size: (_ for _ in ()).throw(ValueError("[metal::set_wired_limit]"))
    )
    device.keep_resident("metal", 1)
    device.keep_resident("cpu", 1)


@pytest.fixture(autouse=True)
def _limits_as_before():
    memory, cache = mx.get_memory_limit(), mx.set_cache_limit(0)
    mx.set_cache_limit(cache)
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)
