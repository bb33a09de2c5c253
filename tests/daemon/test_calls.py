"""Each request gets one answer, alone or in a batch."""

import errno
import json
from pathlib import Path

import pytest

from locara_protocol.errors import RpcError
from locara_protocol.messages import Empty
from locara_sidecar.daemon.wire.calls import Batch, Call, Calls, unexpected
from locara_sidecar.daemon.wire.outbox import Channel, Outbox
from locara_sidecar.machine import own_files


def answers(outbox):
    outbox.close()
    lines = b""
    while (data := outbox.take(1)) is not None:
        lines += data
    return [json.loads(line) for line in lines.splitlines()]


def test_an_unforeseen_error_is_answered_with_a_fixed_text():
    outbox = Outbox()
    Calls(outbox).open(7, "ping", None).fail_unexpectedly(ValueError("zanzibar"))
    (answer,) = answers(outbox)
    assert (answer["id"], answer["error"]["code"], answer["error"]["data"]["kind"]) == (7, -32603, "InternalError")
    assert "zanzibar" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("method", "error", "kind"),
    [
        ("ping", MemoryError(), "InsufficientMemory"),
        ("models.unload", RuntimeError("can't start new thread"), "InsufficientMemory"),
        ("models.list", OSError(errno.EMFILE, "zanzibar"), "StorageError"),
        ("models.load", OSError(errno.EMFILE, "zanzibar"), "InsufficientMemory"),
        ("image.edit", OSError(errno.ENFILE, "zanzibar"), "StorageError"),
        ("models.verify", OSError(errno.ENOMEM, "zanzibar"), "InsufficientMemory"),
        ("host.pickFile", BlockingIOError(errno.EAGAIN, "no process"), "InsufficientMemory"),
        ("models.verify", OSError(errno.EBADF, "zanzibar"), "InternalError"),
        ("no.such.method", OSError(errno.EMFILE, "zanzibar"), "InsufficientMemory"),
    ],
)
def test_what_the_system_refuses_is_named_for_every_method(method, error, kind):
    told = unexpected(method, error)
    assert told.kind == kind
    assert "zanzibar" not in told.message
    assert told.data == ({"errno": errno.errorcode[error.errno]} if kind == "StorageError" else {})


@pytest.mark.parametrize(
    ("method", "kind", "data"),
    [
        ("models.list", "StorageError", {"errno": "ENOENT", "reason": "updated"}),
        ("models.load", "EngineUnavailable", {"reason": "updated"}),
        ("rpc.discover", "InternalError", {"reason": "updated"}),
        ("no.such.method", "InternalError", {"reason": "updated"}),
    ],
)
def test_a_module_that_is_gone_is_told_as_what_an_update_does_to_a_method(method, kind, data):
    told = unexpected(method, ModuleNotFoundError("zanzibar"))
    assert (told.kind, told.data) == (kind, data)
    assert "zanzibar" not in told.message
    assert "Restart the sidecar" in told.message


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES])
def test_a_file_of_ours_that_cannot_be_read_is_told_as_an_update_and_another_is_not(number):
    """It was an unforeseen error."""
    gone = OSError(number, "zanzibar", str(Path(own_files.__file__).with_name("gone.py")))
    told = unexpected("models.load", gone)
    assert (told.kind, told.data) == ("EngineUnavailable", {"reason": "updated"})
    assert unexpected("models.load", OSError(number, "zanzibar", "/home/a/gone.py")).kind == "InternalError"


def test_a_call_that_cannot_be_answered_at_the_end_does_not_keep_the_next_one_from_its_answer(monkeypatch):
    outbox = Outbox()
    calls = Calls(outbox)
    first, _, _ = (calls.open(number, "ping", None) for number in range(3))
    fail = Call.fail

    def without_memory(call, error):
        if call is first:
            raise MemoryError
        fail(call, error)

    monkeypatch.setattr(Call, "fail", without_memory)
    calls.fail_all(MemoryError())
    told = answers(outbox)
    assert [answer["id"] for answer in told] == [1, 2]
    assert {answer["error"]["data"]["kind"] for answer in told} == {"InsufficientMemory"}


def test_a_second_answer_to_one_request_is_a_mistake_of_ours_and_never_goes_out():
    outbox = Outbox()
    call = Calls(outbox).open(7, "ping", None)
    call.succeed(Empty())
    with pytest.raises(RuntimeError, match="twice"):
        call.fail(RpcError("InternalError", "late"))
    assert [answer["id"] for answer in answers(outbox)] == [7]


def test_an_answered_request_gives_its_id_and_its_channel_back():
    calls = Calls(Outbox())
    call = calls.open(7, "image.generate", None)
    call.channel = Channel(3, "DiffusionStep")
    assert calls.channel_in_use(3)
    assert calls.get(7) is call
    assert calls.get("7") is None
    call.succeed(Empty())
    assert not calls.channel_in_use(3)
    assert calls.get(7) is None


def test_a_batch_is_answered_as_one_array_after_its_last_entry_with_every_channel_ended_before():
    outbox = Outbox()
    calls, batch = Calls(outbox), Batch(outbox)
    opened = []
    for request_id in (1, 2):
        batch.expect()
        opened.append(calls.open(request_id, "image.generate", batch))
    opened[0].channel = Channel(3, "DiffusionStep")
    batch.done()
    opened[1].succeed(Empty())
    assert outbox.backlog() == 0
    opened[0].succeed(Empty())
    end, array = answers(outbox)
    assert end["params"] == {"channel": 3, "index": 0, "end": True}
    assert [answer["id"] for answer in array] == [2, 1]


def test_a_batch_of_nothing_to_answer_is_not_answered():
    outbox = Outbox()
    Batch(outbox).done()
    assert answers(outbox) == []
