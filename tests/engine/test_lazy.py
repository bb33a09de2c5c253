"""The engine's client is imported in a thread when the first job needs it; the job can be cancelled meanwhile."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host import lazy
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.lazy import LazyEngine
from support.engine_frames import finish
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


def replaced(folder):
    folder.rename(folder.parent / "old")  # still there, so that its number is not given to the new one
    folder.mkdir()
