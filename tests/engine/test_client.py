"""A healthy engine: what a job reports, in which order, and how long the process lives."""

from __future__ import annotations

import io
import os
import sys

import anyio
import anyio.lowlevel
import pytest
from PIL import Image

from locara_sidecar.engine import frames
from locara_sidecar.engine.process import worker_argv


def shape(events):
    return [
        f"{event.phase} {event.image}" if isinstance(event, frames.PhaseStarted)
        else f"step {event.image}.{event.step}/{event.steps}" if isinstance(event, frames.Step)
        else f"image {event.image}"
        for event in events
        if not (isinstance(event, frames.PhaseStarted) and event.fraction)
    ]  # fmt: skip


def test_a_job_reports_every_phase_step_and_image_in_order(drive, spec):
    async def body(client):
        await client.make(spec(steps=3, count=2))
        assert shape(client.events) == [
            "loading 1", "encoding 1",
            "denoising 1", "step 1.1/3", "step 1.2/3", "step 1.3/3", "decoding 1", "image 1",
            "denoising 2", "step 2.1/3", "step 2.2/3", "step 2.3/3", "decoding 2", "image 2",
        ]  # fmt: skip
        assert [image.seed for image in client.of(frames.Image)] == [7, 8]

    drive(body)


def test_each_step_has_a_preview_that_shows_what_it_says(drive, spec):
    async def body(client):
        await client.make(spec(steps=4))
        previews = [step.preview for step in client.of(frames.Step)]
        assert all(previews)
        for preview in previews:
            picture = Image.open(io.BytesIO(preview.data))
            assert picture.format == "WEBP"
            assert picture.size == (preview.width, preview.height) == (16, 12)
            assert preview.decoder == "linear"

    drive(body)


def test_every_step_gets_one_frame_even_when_previews_cannot_keep_up(drive, spec):
    async def body(client):
        await client.make(spec(width=1024, height=1024, steps=60, preview={"max_side": 256, "max_bytes": 8192}))
        steps = client.of(frames.Step)
        assert [step.step for step in steps] == list(range(1, 61))
        assert steps[-1].preview

    drive(body, settings={"step_ms": "0"})


def test_every_second_step_asked_for_leaves_the_first_and_the_last_in(drive, spec):
    async def body(client):
        await client.make(spec(steps=7, preview={"every_steps": 3}))
        assert [step.step for step in client.of(frames.Step) if step.preview] == [1, 3, 6, 7]

    drive(body)


def test_auto_previews_start_with_the_first_step_and_off_makes_none(drive, spec):
    async def body(client):
        await client.make(spec(preview={"mode": "auto"}))
        assert client.of(frames.Step)[0].preview
        await client.make(spec(preview={"mode": "off"}))
        assert not any(step.preview for step in client.of(frames.Step))

    drive(body)


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "image/webp"])
def test_previews_change_no_byte_of_the_result(drive, spec, mime):
    async def body(client):
        files = []
        for mode in ("linear", "off", "full"):
            await client.make(spec(preview={"mode": mode}, output={"mime_type": mime}))
            files.append(client.of(frames.Image)[0].data)
        assert files[0] == files[1] == files[2]

    drive(body)


def test_a_preview_that_fails_costs_a_warning_and_not_the_job(drive, spec):
    async def body(client):
        done = await client.make(spec(prompt="fake:nopreview"))
        assert [kind for kind, _ in done.warnings] == ["PreviewFailed"]
        assert len(client.of(frames.Step)) == 4
        assert len(client.of(frames.Image)) == 1

    drive(body)


def test_the_result_tells_what_ran_and_how_long_it_took(drive, spec):
    async def body(client):
        done = await client.make(spec(steps=4))
        assert (done.engine, done.device, done.settled.quantization, done.settled.precision) == (
            "fake",
            "cpu",
            "none",
            "float32",
        )
        assert done.load >= 0.02
        assert done.denoise >= 0.08
        assert done.decode >= 0.005
        assert done.peak_memory > 1024 * 1024
        assert done.warnings == []

    drive(body)


def test_the_second_job_finds_the_process_and_the_model_warm(drive, spec):
    async def body(client):
        await client.make(spec())
        pid = client.status().pid
        done = await client.make(spec(job="job-2"))
        assert client.status().pid == pid
        assert done.load == 0
        assert shape(client.events)[0] == "encoding 1"

    drive(body)


def test_status_tells_each_state_as_it_is(drive, spec):
    async def body(client):
        assert client.status().state == "stopped"
        states = []

        def look():
            states.append(client.status())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.make, spec(), lambda event: isinstance(event, frames.Step), look)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert client.status().state == "starting"
        [busy] = states
        assert (busy.state, busy.model) == ("busy", "pocket")
        assert busy.last_progress_ms < 1000
        assert busy.pid != os.getpid()
        idle = client.status()
        assert (idle.state, idle.model, idle.pid) == ("idle", "pocket", busy.pid)
        assert await client.unload()
        assert client.status().state == "stopped"
        assert not await client.unload()

    drive(body)


def test_an_idle_engine_ends_by_itself_and_the_next_job_starts_another(drive, spec):
    async def body(client):
        await client.make(spec())
        first = client.status().pid
        await client._gone.wait()
        assert client.status().state == "stopped"
        await client.make(spec(job="job-2"))
        assert client.status().pid != first

    drive(body, idle_unload=0.05)


def test_unload_leaves_a_running_job_alone(drive, spec):
    async def body(client):
        asked = []

        async with anyio.create_task_group() as tasks:

            def unload():
                tasks.start_soon(ask)

            async def ask():
                asked.append(await client.unload())

            await client.make(spec(), lambda event: isinstance(event, frames.Step), unload)
        assert asked == [False]

    drive(body)


def test_two_jobs_at_once_are_a_programming_error(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.make, spec())
            await anyio.lowlevel.checkpoint()
            with pytest.raises(AssertionError):
                await client.run(spec(job="job-2"), lambda event: None)

    drive(body)


def test_what_is_printed_in_the_engine_goes_to_the_log_and_never_into_the_frames(drive, spec):
    async def body(client):
        await client.make(spec(prompt="fake:stderr"))
        assert len(client.of(frames.Image)) == 1
        await client.unload()
        noise = {record.msg for record in client.logs if record.logger == "engine.stderr"}
        assert {f"engine noise {who}" for who in ("python stdout", "python stderr", "print", "c", "child")} <= noise

    drive(body)


def test_what_is_printed_before_the_worker_has_its_pipe_is_skipped(drive, spec):
    boot = worker_argv()
    at = boot.index("-c") + 1
    boot[at] = "import os; os.write(1, b'startup noise ' * 20_000); " + boot[at]

    async def body(client):
        await client.make(spec())
        assert len(client.of(frames.Image)) == 1

    drive(body, argv=boot)


def test_the_engine_starts_anywhere_and_with_almost_no_environment(drive, spec, tmp_path, monkeypatch):
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name not in ("HOME", "PATH", "USER"):
            monkeypatch.delenv(name)

    async def body(client):
        await client.make(spec())

    drive(body)


def test_the_scratch_folder_goes_with_the_process(drive, spec):
    async def body(client):
        await client.make(spec())
        return client._process, os.listdir(client._process.scratch)

    process, held = drive(body)
    process._threads[-1].join()
    assert held == []
    assert not os.path.exists(process.scratch)


def test_an_engine_that_is_not_there_is_unavailable_with_the_reason(drive, spec):
    async def body(client):
        client._engine = "abacus"
        error = await client.fails(spec())
        assert error.kind == "EngineUnavailable"
        assert "abacus" in error.data["reason"]
        assert client.status().state == "stopped"

    drive(body)


@pytest.mark.parametrize(
    "argv", [["/nowhere/at/all"], [sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", "print(1)"]]
)
def test_an_engine_that_does_not_start_is_unavailable(drive, spec, argv):
    async def body(client):
        error = await client.fails(spec())
        assert error.kind == "EngineUnavailable"
        assert error.data["reason"]

    drive(body, argv=argv)


def test_an_engine_that_says_nothing_is_given_up(drive, spec):
    async def body(client):
        assert (await client.fails(spec())).kind == "EngineUnavailable"

    drive(body, argv=[sys.executable, "-c", "import time; time.sleep(1000)"], start_timeout=0.2)
