"""How the process that works on a model ends."""

import sys
import time
from types import SimpleNamespace

import anyio
import msgspec
import psutil
import pytest

from locara_sidecar.daemon.model_methods import model_work
from locara_sidecar.models import worker

LAST = msgspec.json.encode(worker.WorkerResult(digest="sha256:0", bytes=0, files=0)) + b"\n"
WORK = SimpleNamespace(op="verify")


@pytest.fixture
def scripted(monkeypatch):
    """Let a worker take its work, run ``code`` and end."""

    def use(code):
        program = f"import os, sys, time; sys.stdin.readline(); LAST = {LAST!r}\n{code}\nos._exit(0)"
        monkeypatch.setattr(model_work, "_argv", lambda: [sys.executable, "-c", program])
        monkeypatch.setattr(model_work.msgspec.json, "encode", lambda work: b"{}")

    return use


def run():
    return anyio.run(lambda: model_work.run_for_user(WORK, lambda progress: None))


def test_a_worker_that_has_told_its_last_ends_by_itself(scripted, tmp_path):
    """Killing a worker that is ending would take its exit status away from asyncio, which then complains on stderr."""
    scripted(f"os.write(1, LAST); time.sleep(0.2); open({str(tmp_path / 'ended')!r}, 'w')")
    assert run().digest == "sha256:0"
    assert (tmp_path / "ended").exists()


def test_a_worker_that_does_not_end_is_killed(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(model_work, "_ENDING_SECONDS", 0.2)
    scripted(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); os.write(1, LAST); time.sleep(60)")
    began = time.monotonic()
    assert run().digest == "sha256:0"
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.alone
def test_a_worker_whose_caller_gives_up_is_killed_at_once(scripted, tmp_path):
    scripted(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    async def give_up():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(model_work.run_for_user, WORK, lambda progress: None)
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110  by another process
                await anyio.sleep(0.01)
            began = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - began < 0.9 * model_work._ENDING_SECONDS

    anyio.run(give_up)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
