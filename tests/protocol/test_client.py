"""The Python client against a scripted child."""

import subprocess
import sys
from pathlib import Path

import pytest

from locara_protocol import image_messages as images
from locara_protocol.client import ClientError, ProtocolViolationError, RemoteError, Sidecar, SidecarGoneError

COMMAND = [sys.executable, "-S", str(Path(__file__).with_name("scripted_sidecar.py"))]
SOON = 10.0


@pytest.fixture
def sidecar():
    with Sidecar(COMMAND) as running:
        yield running


def test_a_call_returns_its_result_and_closing_returns_the_exit_status(sidecar):
    assert sidecar.call("echo", {"a": [1, "é\n"]}, timeout=SOON)["params"] == {"a": [1, "é\n"]}
    assert sidecar.close() == 0
    assert sidecar.close() == 0


def test_params_are_left_out_when_there_are_none_and_may_be_a_struct(sidecar):
    assert sidecar.call("echo", timeout=SOON)["had"] is False
    assert sidecar.call("echo", {}, timeout=SOON)["had"] is True
    echoed = sidecar.call("echo", images.CancelJobParams(job_id="j"), timeout=SOON)["params"]
    assert echoed["jobId"] == "j"


def test_initialize_sends_only_what_was_given(sidecar):
    params = sidecar.initialize(grants={"user-folder": "/a"}, processId=7)["params"]
    assert params["protocolVersion"] == 1
    assert params["grants"] == {"user-folder": "/a"}
    assert params["processId"] == 7
    assert "manifest" not in params


def test_an_error_answer_is_raised_with_code_kind_and_data(sidecar):
    with pytest.raises(RemoteError) as caught:
        sidecar.call("fail", timeout=SOON)
    assert (caught.value.code, caught.value.kind, caught.value.retryable) == (-32013, "QueueFull", True)


def test_messages_of_a_call_come_in_order_before_its_result(sidecar):
    call = sidecar.start("stream", stream=True)
    assert [message["step"] for message in call.messages()] == [0, 1]
    assert call.result(SOON) == {"done": True}
    assert sidecar.violations == []


def test_every_streaming_call_has_a_channel_of_its_own(sidecar):
    calls = [sidecar.start("stream", stream=True) for _ in range(3)]
    assert len({call.channel for call in calls}) == 3
    for call in calls:
        assert len(list(call.messages())) == 2
        call.result(SOON)


def test_a_call_without_a_channel_has_no_messages(sidecar):
    assert list(sidecar.start("echo").messages()) == []


@pytest.mark.parametrize("method", ["hole", "miscount", "no-end"])
def test_a_channel_that_does_not_count_right_is_a_violation(sidecar, method):
    call = sidecar.start(method, stream=True)
    with pytest.raises(ProtocolViolationError):
        list(call.messages())
    with pytest.raises(ProtocolViolationError):
        call.result(SOON)
    assert len(sidecar.violations) == 1


def test_a_frame_after_the_end_of_its_channel_is_a_violation(sidecar):
    call = sidecar.start("after-end", stream=True)
    assert list(call.messages()) == []
    with pytest.raises(ProtocolViolationError):
        call.result(SOON)


@pytest.mark.parametrize("method", ["late", "noise"])
def test_what_no_call_can_raise_is_kept_as_a_violation(sidecar, method):
    assert sidecar.start(method, stream=method == "late").result(SOON) == {"done": True}
    sidecar.call("echo", timeout=SOON)
    assert len(sidecar.violations) == 1


def test_a_result_that_is_no_object_is_a_violation(sidecar):
    with pytest.raises(ProtocolViolationError):
        sidecar.call("array", timeout=SOON)


def test_a_cancelled_call_is_answered_and_its_id_is_named(sidecar):
    other, call = sidecar.start("wait"), sidecar.start("wait")
    with pytest.raises(TimeoutError):
        call.result(0.01)
    call.cancel()
    with pytest.raises(RemoteError) as caught:
        call.result(SOON)
    assert caught.value.kind == "RequestCancelled"
    with pytest.raises(TimeoutError):
        other.result(0.1)


@pytest.mark.parametrize(("job", "steps"), [("ended", [0]), ("goes on", [0, 1])])
def test_an_attached_channel_has_its_messages_before_and_after_the_answer(sidecar, job, steps):
    stream = sidecar.attach(job, timeout=SOON)
    assert [message["step"] for message in stream.messages()] == steps
    sidecar.call("echo", timeout=SOON)
    assert sidecar.violations == []


@pytest.mark.parametrize("job", ["hole", "after the end"])
def test_an_attached_channel_that_does_not_count_right_is_a_violation(sidecar, job):
    stream = sidecar.attach(job, timeout=SOON)
    if job == "hole":
        with pytest.raises(ProtocolViolationError):
            list(stream.messages())
    sidecar.call("echo", timeout=SOON)
    assert len(sidecar.violations) >= 1


def test_a_job_that_cannot_be_attached_to_is_an_error(sidecar):
    with pytest.raises(RemoteError):
        sidecar.attach("no such job", timeout=SOON)


def test_an_attached_channel_ends_with_the_process(sidecar):
    stream = sidecar.attach("waits", timeout=SOON)
    with pytest.raises(SidecarGoneError):
        sidecar.call("die", timeout=SOON)
    with pytest.raises(SidecarGoneError):
        list(stream.messages())


def test_calls_outstanding_when_the_process_ends_are_told_so(sidecar):
    waiting = sidecar.start("wait", stream=True)
    with pytest.raises(SidecarGoneError) as caught:
        sidecar.call("die", timeout=SOON)
    assert caught.value.status == 3
    with pytest.raises(SidecarGoneError):
        list(waiting.messages())
    with pytest.raises(SidecarGoneError):
        waiting.result(SOON)
    with pytest.raises(SidecarGoneError):
        sidecar.call("echo", timeout=SOON)
    assert sidecar.close() == 3


def test_a_process_that_will_not_end_is_killed():
    sidecar = Sidecar(COMMAND)
    sidecar.call("stubborn", timeout=SOON)
    assert sidecar.close(timeout=0.2) < 0


def test_raw_lines_are_sent_as_they_are_and_recorded():
    lines: list[tuple[str, bytes]] = []
    with Sidecar(COMMAND, record=lambda *line: lines.append(line), stderr=subprocess.DEVNULL) as sidecar:
        sidecar.send_raw(b"{oops")
        assert sidecar.next_unmatched(SOON)["error"]["code"] == -32700
        with pytest.raises(TimeoutError):
            sidecar.next_unmatched(0.01)
    assert lines[0] == ("send", b"{oops")
    assert lines[1][0] == "receive"


def test_a_command_that_does_not_exist_is_an_os_error():
    with pytest.raises(OSError, match="locara-no-such-command"):
        Sidecar(["locara-no-such-command"])


def test_a_line_that_is_longer_than_the_sidecar_takes_is_not_sent(sidecar):
    sidecar._exchange.opened({"capabilities": {"limits": {"maxLineBytes": 1000}}})
    with pytest.raises(ClientError, match=r"echo cannot be sent: its line takes \d+ bytes, the sidecar takes 1000"):
        sidecar.start("echo", {"a": "x" * 1000})
    assert not sidecar._exchange.busy
    assert sidecar.call("echo", {"a": "x" * 900}, timeout=SOON)["params"] == {"a": "x" * 900}


@pytest.mark.parametrize("told", [{}, {"capabilities": 1}, {"capabilities": {"limits": {"maxLineBytes": "many"}}}])
def test_a_limit_that_is_not_told_is_none(sidecar, told):
    sidecar._exchange.opened(told)
    assert sidecar._exchange.max_line is None


def test_params_that_json_cannot_hold_leave_no_call_behind(sidecar):
    with pytest.raises(UnicodeEncodeError):
        sidecar.start("echo", {"a": "\ud83d"})
    assert not sidecar._exchange.busy
