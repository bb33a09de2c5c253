"""An engine that does not match its daemon after an update says so; another version comes only from an update."""

from __future__ import annotations

from itertools import chain, repeat

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host import lazy, program
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.lazy import LazyEngine
from locara_sidecar.ipc import frames
from support.engine_frames import finish, ready
from support.engines import Engines, Played, in_turn, works

UPDATED = "An update replaced the sidecar's files while it was running"


def refuse(connection, start):
    connection.say(frames.Unavailable(reason="torch, a part of Python, cannot be imported"))


def replaced(folder):
    folder.rename(folder.with_name("old"))  # still there, so that its number is not given to the new one
    folder.mkdir()


def crash(connection, spec):
    connection.end(signal="SIGBUS")


def give_out(connection, start):
    connection.end(status=1)


def interrupt(connection, spec):
    data = {"reason": "gpuInterrupted"}
    connection.say(frames.Failed(job=spec.job, kind="EngineUnavailable", message="the GPU was taken away", data=data))


@pytest.mark.parametrize("change", [replaced, lambda folder: (folder.parent / "bundle.json").write_text("{ }")])
@pytest.mark.parametrize(
    ("played", "kind", "reason"),
    [
        ({"on_start": refuse}, "EngineUnavailable", "torch, a part of Python, cannot be imported"),
        ({"on_start": give_out}, "EngineUnavailable", "status 1"),
        ({"on_job": crash}, "EngineCrashed", None),
        ({"on_job": interrupt}, "EngineUnavailable", "gpuInterrupted"),
    ],
)
def test_an_engine_that_does_not_suit_the_daemon_after_an_update_says_so(prefix, spec, change, played, kind, reason):
    def failure(change):
        transport = Engines(lambda: Played(**played))

        async def job():
            engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
            change(prefix)
            with pytest.raises(RpcError) as caught, anyio.fail_after(20):
                await engine.run(spec(), lambda _: None)
            await engine.close()
            return caught.value

        return anyio.run(job)

    before, after = failure(lambda _: None), failure(change)
    assert (before.kind, before.data.get("reason"), after.kind) == (kind, reason, kind)
    if kind == "EngineUnavailable" and reason != "gpuInterrupted":
        assert after.data == {**before.data, "reason": "updated"}
        assert after.message.startswith(UPDATED)
        assert before.message in after.message
        assert "Restart the sidecar" in after.message
    else:
        assert (after.message, after.data) == (before.message, before.data)


def refuses(connection, start):
    connection.say(frames.Unavailable(reason=frames.OTHER_VERSION))


def is_older(connection, start):
    connection.say(ready(start, version=frames.VERSION - 1))


def is_told_as_an_update(error):
    assert (error.kind, error.data, error.retryable) == ("EngineUnavailable", {"reason": "updated"}, False)
    assert error.message.count("Restart the sidecar") == 1
    assert error.message.count("different versions of Locara") == 1


@pytest.mark.parametrize("meets", [refuses, is_older])
def test_an_engine_of_another_version_is_told_as_an_update(drive, spec, meets):
    """Even without other signs of an update: outside a bundle the daemon does not know what it was started from."""

    async def body(client):
        is_told_as_an_update(await client.fails(spec()))
        await works(client, spec)

    starts = in_turn(meets, lambda connection, start: connection.say(ready(start)))
    drive(body, lambda: Played(finish, on_start=starts))


@pytest.mark.parametrize("meets", [refuses, is_older])
def test_an_engine_of_another_version_is_told_once_if_the_update_is_known(spec, monkeypatch, meets):
    found = chain([program.Program((1, 1, 1))], repeat(program.Program((1, 2, 2))))
    monkeypatch.setattr(program, "find", lambda *, wait: next(found))

    async def job():
        transport = Engines(lambda: Played(on_start=meets))
        engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        with pytest.raises(RpcError) as caught, anyio.fail_after(20):
            await engine.run(spec(), lambda _: None)
        await engine.close()
        return caught.value

    is_told_as_an_update(anyio.run(job))


def test_the_words_by_which_a_daemon_knows_an_engine_of_another_version_stay_the_same():
    """An engine of any other version sends these words."""
    assert frames.OTHER_VERSION == "the daemon and the engine come from different versions of Locara"


@pytest.mark.parametrize("are_replaced", [True, False])
def test_an_engine_that_cannot_start_from_files_that_an_update_has_replaced_says_so(
    prefix, spec, monkeypatch, are_replaced
):
    """Even if the folder's own place is the same, as while it is being deleted."""
    monkeypatch.setattr(lazy.own_files, "are_replaced", lambda *_: are_replaced)
    transport = Engines(lambda: Played(on_start=give_out))

    async def job():
        engine = LazyEngine(lambda: EngineClient("fake", on_log=lambda _: None, transport=transport))
        with pytest.raises(RpcError) as caught, anyio.fail_after(20):
            await engine.run(spec(), lambda _: None)
        await engine.close()
        return caught.value

    error = anyio.run(job)
    assert (error.kind, error.data["reason"]) == ("EngineUnavailable", "updated" if are_replaced else "status 1")
