"""A healthy engine: what a job reports and in which order, and how long an engine lives. No process is spawned here."""

from __future__ import annotations

import io

import anyio
import anyio.lowlevel
import msgspec
import pytest
from PIL import Image

from locara_sidecar.daemon.engine_host.program import Program
from locara_sidecar.daemon.engine_host.supervision.lifecycle import IllegalEventError
from locara_sidecar.ipc import frames
from support.engine_frames import enter, finish
from support.engines import Played


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


def test_the_second_job_finds_the_engine_and_the_model_warm(drive, spec):
    async def body(client):
        await client.make(spec())
        done = await client.make(spec(job="job-2"))
        assert len(client.started) == 1
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
            starting = client.status()
        assert (starting.state, starting.model, client.device) == ("starting", None, "cpu")
        assert starting.last_progress_ms < 1000
        [busy] = states
        assert (busy.state, busy.model) == ("busy", "pocket")
        assert busy.last_progress_ms < 1000
        idle = client.status()
        assert (idle.state, idle.model, idle.last_progress_ms) == ("idle", "pocket", None)
        assert await client.unload()
        assert (client.status().state, client.status().model, client.device) == ("stopped", None, None)
        assert not await client.unload()

    drive(body)


def test_an_idle_engine_ends_by_itself_and_the_next_job_starts_another(drive, spec):
    async def body(client):
        await client.make(spec())
        await client.gone.wait()
        assert client.status().state == "stopped"
        await client.make(spec(job="job-2"))
        assert len(client.started) == 2

    drive(body, lambda: Played(finish), idle_unload=0.05)


def test_unload_leaves_a_running_job_alone(drive, spec):
    async def body(client):
        asked = []

        async with anyio.create_task_group() as tasks:

            def unload():
                tasks.start_soon(ask)

            async def ask():
                asked.append(await client.unload())
                finish(client.connection, spec())

            await client.make(spec(), lambda event: isinstance(event, frames.PhaseStarted), unload)
        assert asked == [False]

    drive(body, lambda: Played(enter))


def test_two_jobs_at_once_are_a_programming_error_and_the_first_goes_on(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.make, spec())
            await anyio.lowlevel.checkpoint()
            with pytest.raises(IllegalEventError):
                await client.run(spec(job="job-2"), lambda event: None)
        assert len(client.of(frames.Image)) == 1

    drive(body, lambda: Played(finish))


def test_an_edit_s_files_reach_the_engine_whole(drive, spec):
    """They are sent before the job, in pieces."""
    heard = []

    async def body(client):
        images = [bytes(range(256)) * 5000, b"another"]
        await client.make(spec(edit=frames.EditSpec(images=images, mask=b"mask")))
        pieces = [command for command in heard[0].heard if isinstance(command, frames.Piece)]
        for file, data in enumerate([*images, b"mask"]):
            assert b"".join(piece.data for piece in pieces if piece.file == file) == data

    def engine():
        heard.append(Played(finish))
        return heard[0]

    drive(body, engine)


def test_an_engine_whose_own_folder_was_replaced_is_replaced(drive, spec):
    """Its sandbox allows only the old folder, so the engine could import nothing more."""
    heard = []

    def engine():
        heard.append(Played(finish))
        return heard[-1]

    async def body(client):
        client.saw(Program((1, 10)))
        await client.make(spec())
        client.saw(None)
        await client.make(spec())
        assert len(heard) == 1  # while there is no folder, no engine could be started
        client.saw(Program((1, 11)))
        await client.make(spec())
        await client.make(spec())
        client.saw(Program((1, 11), (1, 5, 100)))
        await client.make(spec())
        assert len(heard) == 2  # files were replaced inside it, of which it may have all that it needs

    drive(body, engine)


def test_an_engine_is_told_what_it_may_read_and_where_it_may_write(drive, spec, tmp_path):
    granted, model, prepared, into = (str(tmp_path / name) for name in ("granted", "model", "prepared", "into"))
    heard = []

    def engine():
        heard.append(Played(act))
        return heard[-1]

    def act(connection, job):
        if isinstance(job, frames.PrepareSpec):
            connection.say(frames.Prepared(job=job.job, quantization="4bit", precision="float16"))
        else:
            finish(connection, job)

    async def body(client):
        form = frames.PreparedForm(quantization="4bit", precision="float16", path=prepared)
        in_folder = msgspec.structs.replace(spec().model, path=model, prepared=[form])
        await client.make(spec(model="anywhere"))
        await client.prepare(frames.PrepareSpec(job="p", model=in_folder, into=into), lambda event: None)
        assert client.status().state == "stopped"
        starts = [engine.heard[0] for engine in heard]
        assert [start.settings["step_ms"] for start in starts] == ["20", "20"]
        assert [set(start.readable) for start in starts] == [{"/nowhere", granted}, {model, prepared, granted}]
        assert [start.writable for start in starts] == [[], [into]]

    drive(body, engine, readable=lambda: [granted])
