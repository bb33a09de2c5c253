"""The engine's client is imported in a thread when the first job needs it; the job can be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host import lazy, program
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.lazy import LazyEngine
from locara_sidecar.ipc import frames
from support.engine_frames import done_with, enter, finish, image_of
from support.engines import Engines, Played


@pytest.fixture
def importing(monkeypatch):
    """Two events for the client's import: it has begun, it may end."""
    begun, ends = threading.Event(), threading.Event()

    def imported():
        begun.set()
        assert ends.wait(20)

    monkeypatch.setattr(lazy, "_import_client", imported)
    yield begun, ends
    ends.set()


async def first_job(spec, transport, act, importing):
    """Return how an engine's first job ends when ``act`` happens while the client is imported."""
    begun, ends = importing
    engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
    outcomes = []

    async def job():
        try:
            outcomes.append(await engine.run(spec, lambda _: None))
        except RpcError as error:
            outcomes.append(error.kind)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job)
            await anyio.to_thread.run_sync(begun.wait)  # the event loop runs meanwhile
            assert engine.status().state == "stopped"
            act(engine, ends)
        await engine.close()
    return outcomes


def test_the_first_job_waits_for_the_import_and_not_the_event_loop(spec, importing):
    transport = Engines(lambda: Played(finish))
    [done] = anyio.run(first_job, spec(), transport, lambda _, ends: ends.set(), importing)
    assert done.job == "job-1"
    assert len(transport.started) == 1


def test_a_job_that_is_cancelled_meanwhile_is_answered_before_the_import_has_ended(spec, importing):
    transport = Engines(lambda: Played(finish))
    outcomes = anyio.run(first_job, spec(), transport, lambda engine, _: engine.cancel("job-1"), importing)
    assert (outcomes, importing[1].is_set(), transport.started) == (["RequestCancelled"], False, [])


def test_no_engine_is_started_for_a_job_that_waited_as_the_daemon_ended(spec, importing):
    def act(engine, ends):
        engine.close_now()
        ends.set()

    transport = Engines(lambda: Played(finish))
    outcomes = anyio.run(first_job, spec(), transport, act, importing)
    assert (outcomes, transport.started) == (["EngineUnavailable"], [])


def test_jobs_after_an_update_get_an_engine_of_the_new_folder(spec, monkeypatch, tmp_path):
    transport = Engines(lambda: Played(finish))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(program, "_first", [])

    async def jobs():
        engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        counts = []
        for change in (Path.mkdir, Path.stat, replaced, Path.stat):
            change(tmp_path / "python")
            await engine.run(spec(), lambda _: None)
            counts.append(len(transport.started))
        await engine.close()
        return counts

    assert anyio.run(jobs) == [1, 1, 2, 2]


def steps(connection, spec, count):
    """Report what a job does up to its step ``count``."""
    for phase in ("loading", "encoding", "denoising"):
        enter(connection, spec, phase)
    connection.say(*(frames.Step(job=spec.job, image=1, step=step + 1, steps=spec.steps) for step in range(count)))


def told_of(spec, plays):
    """Run one job; return what it reported, how it ended and the engines. ``plays`` are the engines' parts, in turn."""
    transport = Engines(lambda: Played(plays[len(transport.started)]))
    told = []

    async def job():
        engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        try:
            with anyio.fail_after(20):
                ended = (await engine.run(spec, told.append)).job
        except RpcError as error:
            ended = error.kind
        await engine.close()
        return ended

    return told, anyio.run(job), len(transport.started)


def fail(connection, spec):
    connection.say(frames.Failed(job=spec.job, kind="InternalError", message="no such module", data={}))


def crash(connection, spec):
    connection.end(signal="SIGBUS")


def rest(connection, spec):
    steps(connection, spec, spec.steps)
    enter(connection, spec, "decoding")
    connection.say(image_of(spec), done_with(spec))


@pytest.mark.parametrize("ending", [fail, crash])
@pytest.mark.parametrize("reached", [0, 1, 3])
def test_a_job_that_fails_as_its_engine_s_folder_is_replaced_is_done_by_another_engine(prefix, spec, ending, reached):
    """And nothing of it is reported twice."""

    def first(connection, job):
        steps(connection, job, reached)
        replaced(prefix)
        ending(connection, job)

    told, ended, engines = told_of(spec(steps=4), [first, rest])
    assert (ended, engines) == ("job-1", 2)
    once, _, _ = told_of(spec(steps=4), [rest])
    assert told == once


def test_pictures_that_were_finished_before_it_failed_are_not_told_again(prefix, spec):
    def first(connection, job):
        rest_of_two(connection, job, 1)
        replaced(prefix)
        fail(connection, job)

    def rest_of_two(connection, job, pictures):
        for image in range(1, pictures + 1):
            connection.say(frames.PhaseStarted(job=job.job, phase="denoising", image=image))
            connection.say(image_of(job, image=image, seed=job.seed + image - 1))

    def second(connection, job):
        rest_of_two(connection, job, 2)
        connection.say(done_with(job))

    told, ended, engines = told_of(spec(count=2), [first, second])
    assert (ended, engines) == ("job-1", 2)
    assert [event.image for event in told if isinstance(event, frames.Image)] == [1, 2]


def test_files_that_are_replaced_inside_the_folder_give_a_failed_job_another_engine_too(prefix, spec):
    def first(connection, job):
        (prefix.parent / "new").write_text("{}")
        (prefix.parent / "new").rename(prefix.parent / "bundle.json")
        fail(connection, job)

    assert told_of(spec(), [first, rest])[1:] == ("job-1", 2)


def test_a_job_that_fails_where_nothing_was_replaced_fails(prefix, spec):
    assert told_of(spec(), [fail])[1:] == ("InternalError", 1)


def test_a_job_that_fails_in_files_that_were_just_replaced_is_done_again(prefix, spec, monkeypatch):
    """The folder's own place is the same, as with an update that copies file by file."""
    seen = []
    monkeypatch.setattr(lazy.own_files, "settled_since", lambda since: seen.append(since) or True)
    assert told_of(spec(), [fail, rest])[1:] == ("job-1", 2)
    assert told_of(spec(), [fail] * 9)[1:] == ("InternalError", 3)
    assert all(0 <= time.time() - since < 60 for since in seen)


def test_a_job_is_not_begun_anew_for_ever(prefix, spec):
    def first(connection, job):
        replaced(prefix)
        fail(connection, job)

    assert told_of(spec(), [first] * 9)[1:] == ("InternalError", 3)


def test_a_folder_that_is_away_between_two_renames_is_waited_for(prefix, spec):
    prefix.rename(prefix.parent / "old")
    back = threading.Timer(0.3, prefix.mkdir)
    back.start()
    assert program.find() is not None
    back.join()


def test_a_folder_that_does_not_come_back_is_waited_for_once_and_again_after_it_was_there(prefix, monkeypatch):
    monkeypatch.setattr(program, "_SWAP", 0.3)

    def seconds():
        began = time.monotonic()
        program.find()
        return time.monotonic() - began

    for _ in range(2):
        prefix.rename(prefix.parent / "old")
        assert seconds() >= 0.3
        with monkeypatch.context() as patched:
            patched.setattr(program.time, "sleep", lambda _: pytest.fail("it waits again"))
            program.find()
        (prefix.parent / "old").rename(prefix)
        assert program.find() is not None


def test_a_job_that_is_cancelled_before_the_other_engine_has_it_is_answered(prefix, spec):
    """Here, while the folder is missing."""
    transport = Engines(lambda: Played(first))
    failed = threading.Event()

    def first(connection, job):
        prefix.rename(prefix.parent / "old")
        fail(connection, job)
        failed.set()

    async def job():
        engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        outcomes = []

        async def run():
            with pytest.raises(RpcError) as caught:
                await engine.run(spec(), lambda _: None)
            outcomes.append(caught.value.kind)

        with anyio.fail_after(4):  # less than the wait for the folder
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await anyio.to_thread.run_sync(failed.wait)
                await anyio.sleep(0.2)
                assert outcomes == []
                engine.cancel("job-1")
        await engine.close()
        return outcomes

    assert anyio.run(job) == ["RequestCancelled"]


def ended_with(spec, played, *, on_event=lambda engine: None, engine_of=LazyEngine):
    """Return how one job ends, and the number of engines. ``on_event`` is called with the engine for each event."""
    transport = Engines(lambda: played)

    async def job():
        engine = engine_of(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        try:
            with anyio.fail_after(20):
                ended = (await engine.run(spec, lambda _: on_event(engine))).job
        except RpcError as error:
            ended = error.kind
        await engine.close()
        return ended

    return anyio.run(job), len(transport.started)


def test_a_cancel_between_a_failure_and_its_job_s_hearing_of_it_is_not_lost(prefix, spec):
    """At that moment the engine has no job, and nothing waits yet."""

    def first(connection, job):
        replaced(prefix)
        connection.say(
            frames.Step(job=job.job, image=1, step=1, steps=4),
            frames.Failed(job=job.job, kind="InternalError", message="no such module", data={}),
        )

    def cancel(engine):
        asyncio.get_running_loop().call_soon(engine.cancel, "job-1")

    assert ended_with(spec(steps=4), Played(first), on_event=cancel) == ("RequestCancelled", 1)


@pytest.mark.parametrize("look", [1, 2])  # for the client, and for the folder
def test_a_cancel_as_a_wait_is_just_over_is_not_lost(prefix, spec, monkeypatch, look):
    engines, looks, off_loop = [], [], lazy.off_loop

    async def over(*args, **options):
        found = await off_loop(*args, **options)
        looks.append(found)
        if len(looks) == look:
            engines[0].cancel("job-1")
        return found

    def engine_of(make):
        engines.append(LazyEngine(make))
        return engines[0]

    def first(connection, job):
        replaced(prefix)
        fail(connection, job)

    monkeypatch.setattr(lazy, "off_loop", over)
    assert ended_with(spec(), Played(first), engine_of=engine_of) == ("RequestCancelled", look - 1)


def test_a_job_whose_replaced_engine_crashes_as_it_is_cancelled_is_cancelled(prefix, spec):
    """Otherwise such a crash is reported as usual."""
    for replace, ending in ((lambda: replaced(prefix), "RequestCancelled"), (lambda: None, "EngineCrashed")):

        def stop(connection, job, replace=replace):
            replace()
            crash(connection, job)

        played = Played(lambda connection, job: steps(connection, job, 1), on_cancel=stop)
        assert ended_with(spec(), played, on_event=lambda engine: engine.cancel("job-1")) == (ending, 1)


def test_a_job_that_began_while_the_folder_was_away_for_long_is_done_once_it_is_there(prefix, spec, monkeypatch):
    monkeypatch.setattr(program, "_SWAP", 0.0)
    prefix.rmdir()

    def first(connection, job):
        prefix.mkdir()
        fail(connection, job)

    assert told_of(spec(), [first, rest])[1:] == ("job-1", 2)


def test_a_job_that_fails_because_the_folder_is_gone_says_so(prefix, spec, monkeypatch):
    monkeypatch.setattr(program, "_SWAP", 0.0)

    def first(connection, job):
        prefix.rmdir()
        fail(connection, job)

    assert told_of(spec(), [first])[1:] == ("EngineUnavailable", 1)


def test_where_the_system_allows_no_thread_no_job_begins_and_the_loop_reads_no_file(spec, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    monkeypatch.setattr(lazy, "_look", lambda **_: pytest.fail("it was looked for on the loop"))
    with pytest.raises(RuntimeError, match="can't start new thread"):  # answered with InsufficientMemory
        told_of(spec(), [rest])


def test_a_job_that_fails_where_the_system_allows_no_more_threads_says_why_it_failed(prefix, spec, monkeypatch):
    """And not that there was no thread in which to look for an update."""

    def first(connection, job):
        monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
        fail(connection, job)

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    assert told_of(spec(), [first])[1:] == ("InternalError", 1)


def test_a_folder_that_is_deleted_and_made_again_is_another_one(prefix):
    """Although most file systems give it the same inode number."""
    seen = set()
    for _ in range(20):
        seen.add(program.find())
        time.sleep(0.02)  # a file system's clock may be that coarse
        prefix.rmdir()
        prefix.mkdir()
    assert len(seen) == 20


def replaced(folder):
    # still there, so that its number is not given to the new one
    folder.rename(folder.with_name(f"old{len(list(folder.parent.iterdir()))}"))
    folder.mkdir()
