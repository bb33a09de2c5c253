"""A model loaded before its first job: progress is reported, it stops like a job, and the next job uses the model."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.engine.job import run_job
from locara_sidecar.engine.load import run_load, run_prepare
from locara_sidecar.engine.runtime import JobCancelled, LoadedModel, PhaseEvent
from locara_sidecar.ipc import frames
from locara_sidecar.ipc.errors import EngineError
from support.engine_frames import enter
from support.engines import Played


@pytest.fixture
def load_spec(spec):
    def make(job="load-1", **members):
        model = spec(**members).model
        return frames.LoadSpec(job=job, model=model, width=128, height=96)

    return make


def test_a_loaded_model_is_told_and_the_next_job_does_not_load_it_again(drive, spec, load_spec):
    async def body(client):
        events = []
        loaded = await client.load(load_spec(), events.append)
        assert (loaded.engine, loaded.device, loaded.quantization, loaded.precision) == (
            "fake",
            "cpu",
            "none",
            "float32",
        )
        assert loaded.memory > 0
        fractions = [event.fraction for event in events if isinstance(event, frames.PhaseStarted)]
        assert len(fractions) == len(events) > 1
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
        assert (client.status().model, client.status().state) == ("pocket", "idle")
        await client.make(spec())
        assert not [event for event in client.of(frames.PhaseStarted) if event.phase == "loading"]
        await client.make(spec(model="other"))
        assert [event for event in client.of(frames.PhaseStarted) if event.phase == "loading"]

    drive(body)


def test_a_model_that_is_loaded_already_is_told_at_once(drive, spec, load_spec):
    async def body(client):
        await client.make(spec())
        events = []
        loaded = await client.load(load_spec(), events.append)
        assert (loaded.quantization, events) == ("none", [])

    drive(body)


def test_a_cancel_stops_loading_and_no_model_is_claimed(drive, load_spec):
    async def body(client):
        with pytest.raises(RpcError) as caught:
            await client.load(load_spec(), lambda event: client.cancel("load-1"))
        assert caught.value.kind == "RequestCancelled"
        assert (client.status().state, client.status().model) == ("idle", None)
        assert await client.load(load_spec(model="other"), lambda event: None)

    drive(body, settings={"load_ms": "400"})


def test_a_crash_while_loading_names_the_phase(drive, load_spec):
    async def body(client):
        with pytest.raises(RpcError) as caught:
            await client.load(load_spec(), lambda event: None)
        assert (caught.value.kind, caught.value.data["phase"]) == ("EngineCrashed", "loading")

    def dies(connection, job):
        enter(connection, job, "loading")
        connection.end(signal="SIGKILL")

    drive(body, lambda: Played(dies))


def test_unloading_ends_an_idle_engine_and_never_one_at_work(drive, spec, load_spec):
    async def body(client):
        assert not await client.unload()
        await client.load(load_spec(), lambda event: None)
        assert await client.unload()
        assert (client.status().state, client.status().model) == ("stopped", None)
        answers = []

        async def try_it():
            answers.append(await client.unload())

        async with anyio.create_task_group() as tasks:
            await client.make(spec(), lambda event: isinstance(event, frames.Step), lambda: tasks.start_soon(try_it))
        assert answers == [False]
        assert len(client.of(frames.Image)) == 1

    drive(body)


class Raises:
    """A runtime that raises ``error``, whatever it is asked to do."""

    name, device = "raises", "cpu"

    def __init__(self, error):
        self._error = error

    def load(self, spec, emit, control):
        raise self._error

    prepare = generate = load


@pytest.mark.parametrize("work", ["generate", "load", "prepare"])
@pytest.mark.parametrize(
    ("error", "cancelled", "kind"),
    [
        (JobCancelled(), False, None),
        (RuntimeError("what a library makes of a cancel"), True, None),
        (EngineError("ModelIncomplete", "A file is missing."), False, "ModelIncomplete"),
        (RuntimeError("a prompt"), False, "InternalError"),
    ],
)
def test_what_a_runtime_raises_is_told_by_name_and_logged_only_if_unforeseen(
    spec, load_spec, work, error, cancelled, kind
):
    run, order = {
        "generate": (run_job, spec()),
        "load": (run_load, load_spec()),
        "prepare": (run_prepare, frames.PrepareSpec(job="prepare-1", model=spec().model, into="/nowhere")),
    }[work]
    logged = []
    control = SimpleNamespace(cancelled=cancelled, checkpoint=lambda: None)
    last = run(Raises(error), order, control, lambda event: None, lambda what, caught: logged.append(caught))
    if kind is None:
        assert last == frames.Cancelled(job=order.job)
    else:
        assert (last.job, last.kind) == (order.job, kind)
        assert "prompt" not in last.message
    assert logged == ([error] if kind == "InternalError" else [])


class Emits:
    """A runtime that emits ``fractions`` and claims to have loaded."""

    name, device = "emits", "cpu"

    def __init__(self, fractions):
        self._fractions = fractions

    def load(self, spec, emit, control):
        for fraction in self._fractions:
            emit(PhaseEvent(phase="loading", image=1, fraction=fraction))
        return LoadedModel(quantization="none", precision="float32", memory=1)


def test_many_small_fractions_become_few_frames_and_the_last_is_always_told(load_spec):
    class Flag:
        cancelled = False

        def checkpoint(self):
            pass

    ticks = iter(range(10_000))
    sent = []
    runtime = Emits([number / 1000 for number in range(1001)])
    last = run_load(runtime, load_spec(), Flag(), sent.append, lambda *_: None, clock=lambda: next(ticks) / 1000)
    assert isinstance(last, frames.Loaded)
    assert 5 <= len(sent) <= 20
    assert (sent[0].fraction, sent[-1].fraction) == (0, 1)


def test_an_engine_that_cannot_prepare_says_so_and_its_process_has_ended(drive, spec, load_spec, tmp_path):
    async def body(client):
        await client.load(load_spec(), lambda event: None)
        wanted = frames.PrepareSpec(job="prepare-1", model=spec().model, into=str(tmp_path))
        with pytest.raises(RpcError) as caught:
            await client.prepare(wanted, lambda event: None)
        assert caught.value.kind == "EngineUnavailable"
        assert (client.status().state, client.status().pid) == ("stopped", None)
        assert not client.started[-1].alive
        assert await client.make(spec())
        assert len(client.started) == 3  # one was started that may write there

    drive(body)


@pytest.mark.slow
def test_a_caller_that_gives_up_preparing_leaves_no_engine_behind(drive, spec, tmp_path):
    async def body(client):
        wanted = frames.PrepareSpec(job="prepare-1", model=spec().model, into=str(tmp_path))
        with anyio.move_on_after(0.05) as scope:  # starting the engine takes longer
            await client.prepare(wanted, lambda event: None)
        assert scope.cancelled_caught
        assert client.status().state == "stopped"
        assert not client.started[0].alive
        assert await client.make(spec())

    drive(body, settings={"start_ms": "2000"})
