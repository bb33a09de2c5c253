"""Waiting for the user's files: what a cancelled call waits for, and what it does not."""

import threading

import anyio
import pytest

from locara_sidecar.daemon.wire import user_files
from support.host import eventually


@pytest.mark.parametrize("begins", [True, False])
def test_a_cancelled_call_waits_only_for_what_cannot_be_undone_and_needs_no_thread_for_that(monkeypatch, begins):
    hand, running, go_on, late, results = user_files.Handover(), threading.Event(), threading.Event(), [], []

    def work():
        assert not begins or hand.begin()
        running.set()
        go_on.wait(20)
        return "saved"

    def refused(*_, **__):
        raise RuntimeError("can't start new thread")

    async def call():
        results.append(await user_files.wait_for(work, late.append, hand))

    async def main():
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await anyio.to_thread.run_sync(running.wait)
                monkeypatch.setattr(user_files.anyio.to_thread, "run_sync", refused)
                tasks.cancel_scope.cancel()
                threading.Timer(0.1, go_on.set).start()
            go_on.set()

    anyio.run(main)
    assert eventually(lambda: (results, late) == ((["saved"], []) if begins else ([], ["saved"])))
