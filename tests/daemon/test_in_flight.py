"""However many calls a host sends at once, they take no memory, each is answered, and jobs go on."""

import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import traceback

import anyio
import psutil
import pytest

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError
from locara_protocol.messages import Empty
from locara_protocol.methods import METHODS
from locara_sidecar.daemon.jobs import jobs
from locara_sidecar.daemon.jobs.in_flight import MAX_SHORT, InFlight
from locara_sidecar.daemon.jobs.jobs import Job, JobQueue
from locara_sidecar.daemon.wire import off_loop
from locara_sidecar.daemon.wire.calls import MAX_HELD, Calls
from locara_sidecar.daemon.wire.outbox import Outbox
from locara_sidecar.daemon.wire.server import OffLoopHandler, Server
from support.host import manifest

MIB = 1 << 20
# a daemon whose lists wait until the test removes a file
STUCK = """
import fcntl, os, sys
from locara_protocol.model_messages import ModelsListResult
from locara_sidecar.daemon.model_methods.model_calls import ModelCalls
def listed(self):
    with open(os.environ["GATE"]) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    return ModelsListResult(models=[])
ModelCalls._list = listed
from locara_sidecar.__main__ import main
sys.exit(main())
"""


class Everyone:
    """A session that accepts every request."""

    state = "open"

    def admit(self, method):
        del method


class Wired:
    """A server on which each method is a short call, answered when the test says so."""

    def __init__(self, start_aside=lambda *_: False, later=lambda _: False, stopping=lambda: False, **handlers):
        self.outbox = Outbox()
        self.in_flight = InFlight(lambda *_: None, lambda: self.server.go_on())
        self.waiting, self.resumed, self.broken = [], 0, []
        self.server = Server(
            self.outbox,
            Calls(self.outbox),
            Everyone(),
            dict.fromkeys(METHODS, self.accept) | handlers,
            cancel=lambda _: None,
            leave=lambda: None,
            max_line_bytes=MIB,
            is_full=self.in_flight.is_full,
            resume=self.resume,
            start_aside=start_aside,
            later=later,
            stopping=stopping,
            broken=self.broken.append,
        )

    def resume(self):
        self.resumed += 1

    def accept(self, call, _params):
        self.in_flight.enter(call)
        self.waiting.append(call)

    def answer(self, call):
        self.waiting.remove(call)
        call.succeed(Empty())
        self.in_flight.leave(call)

    def answers(self):
        self.outbox.close()
        lines = b""
        while (data := self.outbox.take(1)) is not None:
            lines += data
        return [json.loads(line) for line in lines.splitlines()]


def request(number, method="models.list"):
    return {"jsonrpc": "2.0", "id": number, "method": method}


def test_no_line_is_looked_at_while_so_many_short_calls_are_in_flight():
    wired = Wired()
    for number in range(MAX_SHORT):
        assert not wired.server.busy
        wired.server.handle_line(json.dumps(request(number)).encode())
    assert wired.server.busy
    wired.answer(wired.waiting[3])
    assert (wired.server.busy, wired.resumed) == (False, 1)
    wired.answer(wired.waiting[3])
    assert wired.resumed == 1  # there was room for it


def test_with_an_event_loop_a_batch_is_looked_at_in_turns(monkeypatch):
    """Here each entry takes one."""
    monkeypatch.setattr(off_loop, "TURN_SECONDS", -1)
    due = []
    wired = Wired(later=lambda function: due.append(function) is None)
    wired.server.handle_line(json.dumps([request(number) for number in range(3)]).encode())
    for waiting in range(1, 4):
        assert (len(wired.waiting), wired.server.busy) == (waiting, True)
        due.pop(0)()
    assert (len(wired.waiting), wired.server.busy, wired.resumed, due) == (3, False, 1, [])


def test_within_a_turn_a_batch_is_looked_at_as_a_whole(monkeypatch):
    monkeypatch.setattr(off_loop, "TURN_SECONDS", 60)
    wired = Wired(later=pytest.fail)
    wired.server.handle_line(json.dumps([request(number) for number in range(3)]).encode())
    assert (len(wired.waiting), wired.server.busy) == (3, False)


@pytest.mark.parametrize("stop", ["looks again", "ends at once"])
def test_a_stop_within_a_batch_answers_all_of_it_and_starts_nothing(monkeypatch, stop):
    """WIRE-10: its line has been looked at, so each of its requests is answered."""
    monkeypatch.setattr(off_loop, "TURN_SECONDS", -1)
    due, stopping = [], []
    wired = Wired(later=lambda function: due.append(function) is None, stopping=lambda: bool(stopping))
    batch = [request(1), request(2), {"jsonrpc": "2.0", "method": "x"}, {"id": 4}, request(5)]
    wired.server.handle_line(json.dumps(batch).encode())
    stopping.append(True)
    if stop == "looks again":
        due.pop(0)()
    wired.server.end()
    assert len(wired.waiting) == 1
    wired.answer(wired.waiting[0])
    (answers,) = wired.answers()
    kinds = {answer["id"]: answer.get("error", {}).get("code") for answer in answers}
    assert kinds == {1: None, 2: -32800, 4: -32600, 5: -32800}
    assert not wired.server.busy


def test_what_waits_for_a_disk_starts_nothing_after_a_stop():
    stopping, tasks = [], []
    wired = Wired(
        start_aside=lambda *task: tasks.append(task) is None,
        stopping=lambda: bool(stopping),
        **{"models.gc": OffLoopHandler(lambda: None, lambda *_: pytest.fail("it started"))},
    )
    jsonrpc.build_decoder(METHODS["models.gc"].params)
    wired.server.handle_line(json.dumps(request(1, "models.gc")).encode())
    stopping.append(True)
    ((function, *arguments),) = tasks
    anyio.run(function, *arguments)
    (answer,) = wired.answers()
    assert answer["error"]["code"] == -32800


def test_a_batch_that_cannot_be_gone_on_with_ends_the_daemon_in_order(monkeypatch):
    """It is told to the daemon, which stops; that answers the rest."""
    monkeypatch.setattr(off_loop, "TURN_SECONDS", -1)
    due = []
    wired = Wired(later=lambda function: due.append(function) is None)
    wired.server.handle_line(json.dumps([request(number) for number in range(3)]).encode())
    monkeypatch.setattr(wired.server, "_entry", lambda *_: 1 / 0)
    due.pop(0)()
    assert [type(error) for error in wired.broken] == [ZeroDivisionError]
    wired.server.end()
    wired.answer(wired.waiting[0])
    (answers,) = wired.answers()
    assert [answer["id"] for answer in answers] == [2, 0], "but the one that failed"


def test_what_decodes_the_parameters_of_a_first_call_is_built_off_the_event_loop(monkeypatch):
    built, aside = set(), []
    monkeypatch.setattr(jsonrpc, "has_decoder", built.__contains__)
    wired = Wired(start_aside=lambda *task: aside.append(task) is None)
    params = METHODS["models.list"].params
    monkeypatch.setattr(jsonrpc, "build_decoder", lambda type_: built.add((type_, threading.current_thread())))
    wired.server.handle_line(json.dumps(request(1)).encode())
    assert (wired.waiting, wired.server.busy) == ([], True)
    ((function, *args),) = aside
    anyio.run(function, *args)
    ((type_, thread),) = built
    assert (type_, thread is threading.main_thread()) == (params, False)
    assert (len(wired.waiting), wired.server.busy, wired.resumed) == (1, False, 1)
    built.add(params)
    wired.server.handle_line(json.dumps(request(2)).encode())
    assert (len(wired.waiting), len(aside)) == (2, 1)


def test_long_calls_do_not_keep_a_cancel_in_the_pipe():
    wired = Wired()
    for number in range(10 * MAX_SHORT):
        wired.in_flight.enter(Calls(wired.outbox).open(number, "image.generate", None), cancel=lambda: None)
    assert not wired.server.busy


def test_a_batch_waits_for_room_between_its_entries_and_the_lines_behind_it_wait_for_its_end():
    wired = Wired()
    for number in range(MAX_SHORT - 1):
        wired.server.handle_line(json.dumps(request(number)).encode())
    batch = [request(number) for number in range(100, 105)]
    wired.server.handle_line(json.dumps(batch).encode())
    for left in range(4, 0, -1):
        assert len(wired.waiting) == MAX_SHORT
        assert wired.server.busy
        wired.answer(wired.waiting[0])
        assert wired.resumed == (left == 1 and len(wired.waiting) < MAX_SHORT)
    assert len(wired.waiting) == MAX_SHORT
    while wired.waiting:
        wired.answer(wired.waiting[0])
    assert not wired.server.busy
    *alone, together = wired.answers()
    assert sorted(answer["id"] for answer in alone) == list(range(MAX_SHORT - 1))
    assert [answer["id"] for answer in together] == [100, 101, 102, 103, 104]


def test_a_batch_whose_answers_are_long_takes_no_more_requests():
    long = json.dumps("x" * (MAX_HELD // 2)).encode()
    wired = Wired(**{"rpc.discover": lambda *_: jsonrpc.msgspec.Raw(long)})
    wired.server.handle_line(json.dumps([request(number, "rpc.discover") for number in range(5)]).encode())
    (array,) = wired.answers()
    assert [answer["id"] for answer in array] == list(range(5))
    assert ["result" in answer for answer in array] == [True, True, False, False, False]
    assert {answer["error"]["code"] for answer in array[2:]} == {-32600}
    assert "send the rest separately" in array[2]["error"]["message"]


def drawing(number):
    return request(number, "image.generate") | {"params": {"prompt": "x", "channel": number}}


def test_a_call_that_is_refused_before_it_begins_ends_the_channel_that_it_named():
    """Clients took the missing end for a violation of the contract, and did not report the error."""
    wired = Wired(**{"rpc.discover": lambda *_: jsonrpc.msgspec.Raw(json.dumps("x" * MAX_HELD).encode())})
    wired.server.handle_line(json.dumps([request(1, "rpc.discover"), drawing(2)]).encode())  # has no room for it
    wired.server.refuse_work(ImportError("the event loop"))
    wired.server.handle_line(json.dumps(drawing(3)).encode())
    *rest, end, answer = wired.answers()
    assert rest[0]["params"] == {"channel": 2, "index": 0, "end": True}
    assert [each["id"] for each in rest[1]] == [1, 2]
    assert end["params"] == {"channel": 3, "index": 0, "end": True}
    assert (answer["id"], "error" in answer) == (3, True)


def test_a_failure_that_refuses_every_call_keeps_none_of_them():
    wired, failure = Wired(), ImportError("the event loop")
    wired.server.refuse_work(failure)
    lengths = []
    for number in range(5):
        wired.server.handle_line(json.dumps(request(number)).encode())
        lengths.append(len(list(traceback.walk_tb(failure.__traceback__))))
    assert lengths == [lengths[0]] * 5


def test_pictures_that_were_sent_with_jobs_are_bounded_together():
    queue = JobQueue(16)
    queue.check_room(2 * jobs.MAX_HELD)  # a job that waits alone may take what a line holds
    job = Job("a", 1, "image.edit", None)
    job.weight = jobs.MAX_HELD - 10
    queue.add(job)
    queue.check_room(10)
    queue.check_room()  # without a picture
    with pytest.raises(RpcError) as caught:
        queue.check_room(11)
    assert (caught.value.kind, caught.value.data["maxQueue"]) == ("QueueFull", 16)
    assert str(jobs.MAX_HELD - 10) in caught.value.message
    queue.remove(job)
    queue.check_room(11)


@pytest.fixture
def stuck(tmp_path):
    """A daemon that answers no list before ``release`` is called."""
    gate = (tmp_path / "gate").open("w")
    fcntl.flock(gate, fcntl.LOCK_EX)
    (tmp_path / "pictures").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "serve", "--engine", "fake", "--log-level", "error"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"GATE": str(tmp_path / "gate")},
    )
    params = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(tmp_path / "pictures")},
    }
    process.stdin.write(line(request("open", "initialize") | {"params": params}))
    process.stdin.flush()
    assert "result" in json.loads(process.stdout.readline())
    process.release = gate.close
    yield process
    process.kill()
    process.wait()
    gate.close()
    process.stdin.close()
    process.stdout.close()


def line(message):
    return json.dumps(message).encode() + b"\n"


COUNTS = [pytest.param(2000, id="2,000"), pytest.param(20_000, id="20,000", marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("count", COUNTS)
def test_a_flood_of_lists_takes_no_memory_a_job_is_saved_meanwhile_and_all_are_answered(stuck, count):
    before = psutil.Process(stuck.pid).memory_info().rss
    job = line(request("job", "image.generate") | {"params": {"prompt": "a pond", "options": {"steps": 2}}})
    flood = job + b"".join(line(request(number)) for number in range(count))
    writer = threading.Thread(target=lambda: (stuck.stdin.write(flood), stuck.stdin.flush()))
    writer.start()
    assert select.select([stuck.stdout], [], [], 60)[0], "the job is not saved while lists are waited for"
    first = json.loads(stuck.stdout.readline())  # nothing else is answered before it
    assert (first["id"], "result" in first) == ("job", True)
    grown = psutil.Process(stuck.pid).memory_info().rss - before
    stuck.release()
    answers = [json.loads(stuck.stdout.readline()) for _ in range(count)]
    writer.join()
    assert sorted(answer["id"] for answer in answers) == list(range(count))
    assert all(answer["result"] == {"models": []} for answer in answers)
    assert max(grown, psutil.Process(stuck.pid).memory_info().rss - before) < 32 * MIB
    stuck.stdin.write(line(request("last", "ping")))
    stuck.stdin.flush()
    assert json.loads(stuck.stdout.readline())["id"] == "last"


def test_a_daemon_that_is_ended_within_a_batch_answers_all_of_it(stuck):
    """WIRE-10. More lists than may be in flight at once, so some entries have not been looked at."""
    job = request("job", "image.generate") | {"params": {"prompt": "a pond", "options": {"steps": 2}}}
    stuck.stdin.write(line(job) + line([request(number) for number in range(2 * MAX_SHORT)]))
    stuck.stdin.flush()
    assert json.loads(stuck.stdout.readline())["id"] == "job"  # the batch has been looked at meanwhile
    stuck.terminate()
    answers = json.loads(stuck.stdout.readline())
    assert sorted(answer["id"] for answer in answers) == list(range(2 * MAX_SHORT))
    assert {answer["error"]["code"] for answer in answers} == {-32800}
    assert stuck.wait(10) == 0
