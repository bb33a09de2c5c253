"""The host side: scenarios played to our clients, and to adapters that misbehave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locara_conformance.host import referee, scenarios
from locara_conformance.outcomes import Outcome
from locara_conformance.validator import Schemas
from locara_protocol.errors import CODES

ADAPTERS = Path(__file__).resolve().parents[1] / "support" / "adapters"
SYNC, ASYNC = ([sys.executable, str(ADAPTERS / f"{name}.py")] for name in ("sync", "asynchronous"))
EVERY = scenarios.load()
BRIEF = ["answers.twice", "dying.in-mid-line", "channels.hole", "opening.other-version", "closing.in-good-order"]


def told(found):
    return [(one.check.id, str(one.outcome), one.reason) for one in found if one.outcome is not Outcome.SUCCESS]


@pytest.mark.timeout(120)
@pytest.mark.quick_cases(*BRIEF)
@pytest.mark.parametrize("adapter", [SYNC, ASYNC, [*ASYNC, "trio"]], ids=["sync", "async", "async-trio"])
@pytest.mark.parametrize("id", EVERY)
def test_the_python_clients_pass_every_scenario(id, adapter):
    assert told(referee.run(adapter, scenarios.chosen([id]), timeout=60)) == []


# --- the data ---


def test_there_are_scenarios_enough_and_each_says_what_is_played():
    assert len(EVERY) >= 25
    assert all(one.description.endswith(".") for one in EVERY.values())


@pytest.mark.parametrize("id", EVERY)
def test_a_scenario_is_of_the_documented_form(id):
    one = EVERY[id]
    assert {step["do"] for step in one.steps} <= {"open", "start", "messages", "cancel", "result", "pause", "close"}
    verbs = {"receive", "send", "pause", "stderr", "hold", "close", "exit", "kill"}
    assert all(next(iter(play)) in verbs for play in one.plays)
    names = {step["call"] for step in one.steps if step["do"] == "start"}
    assert all(step["call"] in names for step in one.steps if "call" in step)
    assert not any(name in step for step in one.given() for name in ("expect", "should"))


def test_the_standard_answers_are_what_the_contract_says():
    schemas = Schemas()
    for method, result in scenarios.values()["results"].items():
        assert schemas.problems(method, "result", result) == [], method
    frame = {"channel": 1, "index": 0, "message": scenarios.values()["message"]}
    assert schemas.problems("DiffusionStep", "params", frame) == []


def test_expected_kinds_have_their_codes():
    def errors(value):
        if isinstance(value, dict):
            yield from [value] if "kind" in value and "code" in value else []
            value = list(value.values())
        for one in value if isinstance(value, list) else []:
            yield from errors(one)

    for one in EVERY.values():
        for error in errors(one.steps):
            assert CODES.get(error["kind"], error["code"]) == error["code"], one.id


# --- clients that misbehave --

ADAPTER = """
import json, os, subprocess, sys, time
task = json.loads(sys.stdin.readline())
def spawn():
    return subprocess.Popen(task["sidecar"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(child, **message):
    child.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\\n"); child.stdin.flush()
def tell(step, **what):
    print(json.dumps({"step": step, **what}), flush=True)
OPENING = {"protocolVersion": 1, "clientInfo": {"name": "a", "version": "1"}}
"""
WRONG = {
    "prints text": ("print('hello')", "printed what is not JSON"),
    "tells nothing": ("pass", "step 0 (open) ended the adapter (status 0)"),
    "fails": ("raise SystemExit(3)", "step 0 (open) ended the adapter (status 3)"),
    "hangs": ("tell(0, ok={}); time.sleep(99)", "step 1 (close) did not end within 3 s"),
    "does not end": ("tell(0, ok={}); tell(1, ok={}); time.sleep(99)", "finished all steps but did not exit"),
    "numbers wrongly": ("tell(1, ok={})", "not as an object with its number"),
    "tells too much": ("tell(0, ok={}); tell(1, ok={}); tell(2, ok={})", "more lines than there are steps"),
    "saw something else": ("tell(0, error={'type': 'gone'}); tell(1, ok={})", "the caller saw"),
    "leaves the sidecar": (
        "c = spawn(); send(c, id=1, method='initialize', params=OPENING); c.stdout.readline()\n"
        "subprocess.Popen(['sleep', '30'], stdin=subprocess.DEVNULL, stdout=c.stdin, stderr=subprocess.DEVNULL)\n"
        "tell(0, ok={}); tell(1, ok={}); os._exit(0)",
        "left its sidecar running",
    ),
    "does not begin with initialize": (
        "c = spawn(); send(c, id=1, method='ping'); c.stdout.readline(); c.stdin.close(); c.wait()\n"
        "tell(0, ok={}); tell(1, ok={})",
        "the first message was not initialize",
    ),
    "sends what the contract has not": (
        "c = spawn(); send(c, id=1, method='initialize', params=OPENING | {'colour': 1}); c.stdin.close(); c.wait()\n"
        "tell(0, ok={}); tell(1, ok={})",
        "the host's initialize: $.colour",
    ),
    "uses an id twice": (
        "c = spawn(); send(c, id=1, method='initialize', params=OPENING); send(c, id=1, method='ping')\n"
        "c.stdin.close(); c.wait(); tell(0, ok={}); tell(1, ok={})",
        "the id 1 was used twice",
    ),
    "leaves a line open": (
        "c = spawn(); send(c, id=1, method='initialize', params=OPENING); c.stdin.write(b'{}'); c.stdin.close()\n"
        "c.wait(); tell(0, ok={}); tell(1, ok={})",
        "ended with 2 bytes without LF",
    ),
    "sends text": (
        "c = spawn(); c.stdin.write(b'hello\\n'); c.stdin.close(); c.wait(); tell(0, ok={}); tell(1, ok={})",
        "sent something that is not JSON",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_client_that_does_wrong_fails(wrong, tmp_path):
    code, sentence = WRONG[wrong]
    file = tmp_path / "adapter.py"
    file.write_text(ADAPTER + code + "\n")
    waits = 3 if wrong in ("hangs", "does not end") else 30
    (found,) = referee.run([sys.executable, str(file)], scenarios.chosen(["closing.in-good-order"]), timeout=waits)
    assert found.outcome is Outcome.FAILURE
    assert sentence in found.reason


def test_what_a_client_should_have_told_is_a_warning(tmp_path):
    file = tmp_path / "adapter.py"
    file.write_text(f"import sys; sys.path.insert(0, {str(ADAPTERS)!r}); import sync\n"
                    "from locara_protocol.clients.exchange import Channel\n"
                    "honest = Channel.frame\n"
                    "def lenient(self, frame): frame['index'] = self._count; return honest(self, frame)\n"
                    "Channel.frame = lenient; sync.main()\n")  # fmt: skip
    (found,) = referee.run([sys.executable, str(file)], scenarios.chosen(["channels.hole"]))
    assert found.outcome is Outcome.WARNING
    assert "ideally" in found.reason


# --- the program ---


def run_program(*arguments, adapter=SYNC):
    command = [sys.executable, "-m", "locara_conformance", "host", *arguments]
    return subprocess.run(
        [*command, "--", *adapter] if adapter else command, capture_output=True, text=True, timeout=55, env=os.environ
    )


def test_the_program_reports_what_the_host_did(tmp_path):
    done = run_program("closing.in-good-order", "--json", str(tmp_path / "json"), "--html", str(tmp_path / "html"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "SUCCESS  MUST   closing.in-good-order" in done.stdout
    (found,) = json.loads((tmp_path / "json").read_text())["results"]
    assert any('"method":"initialize"' in event["text"].replace(" ", "") for event in found["exchange"])
    assert any('"step": 1' in event["text"] for event in found["exchange"])
    assert "closing.in-good-order" in (tmp_path / "html").read_text()


def test_the_program_fails_for_a_client_that_fails():
    done = run_program("closing.in-good-order", adapter=[sys.executable, "-c", ""])
    assert done.returncode == 1
    assert "FAILURE  MUST   closing.in-good-order" in done.stdout


def test_list_names_every_scenario():
    assert [line.split()[0] for line in run_program("--list", adapter=None).stdout.splitlines()] == list(EVERY)


@pytest.mark.parametrize(
    ("arguments", "adapter", "sentence"),
    [
        (["no.such"], SYNC, "no scenario or file of them called no.such"),
        ([], None, "name the adapter of the client after --"),
        ([], ["no-such-program"], "no-such-program is not a program"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments, adapter, sentence):
    done = run_program(*arguments, adapter=adapter)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
