"""Each row that protocol/README.md has about the fake engine is tried."""

import re
from pathlib import Path

import pytest

from locara_protocol.client import RemoteError
from locara_sidecar.engine.fake_engine import faults, runtime
from support.host import error_of, until

README = Path(__file__).parents[2] / "protocol" / "README.md"


def rows(first):
    """Return the rows (lists of cells) of the table whose first heading is ``first``."""
    found, inside = [], False
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if inside and not cells:
            break
        if inside and not line.startswith("|---"):
            found.append(cells)
        inside = inside or cells[:1] == [first]
    return found


WORDS = {
    match[1]: (match[2], row[2]) for row in rows("word") if (match := re.match(r"`fake:(\w+)(?:=(\w+))?`", row[0]))
}
PHASES = ("loading", "encoding", "denoising", "decoding")


def test_the_table_has_every_fault_that_there_is():
    listed = set(re.findall(r"^``fake:(\w+)", runtime.__doc__ or "", re.MULTILINE))
    assert listed == WORDS.keys()
    assert {word for word, (value, _) in WORDS.items() if value == "PHASE"} == faults._DEADLY.keys()


def test_the_table_of_times_has_their_defaults():
    times = {row[0].strip("`"): float(row[1]) for row in rows("variable")}
    assert times == {f"LOCARA_FAKE_{name.upper()}": default for name, default in runtime._DEFAULTS.items()}


@pytest.fixture
def host(hosts):
    return hosts.session("--stall-timeout", "0.5")


@pytest.mark.slow
@pytest.mark.parametrize("word", [word for word, (value, _) in WORDS.items() if value == "PHASE"])
def test_a_fault_in_a_phase_is_answered_as_the_table_says(word, host):
    answer = WORDS[word][1] if "as `" not in WORDS[word][1] else WORDS["hang"][1]
    for phase in PHASES if "Stalled" not in answer else PHASES[::3]:  # these take half a second each
        data = error_of(host.begin(f"fake:{word}={phase} a lake", steps=2)).data
        assert data["kind"] == re.match(r"\w+", answer)[0]
        assert data["phase"] == phase
        if told := re.search(r"\{(signal|status): \"?(\w+)", answer):
            assert str(data[told[1]]) == told[2]
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
@pytest.mark.parametrize("word", [word for word, (value, _) in WORDS.items() if value != "PHASE"])
def test_another_fault_is_answered_as_the_table_says(word, host):
    value, answer = WORDS[word]
    call = host.begin(f"fake:{word}{'=150' if value else ''} a lake", steps=2)
    messages = list(call.messages())
    try:
        outcome = "the result"
        timings = call.result(30)["timings"]
    except RemoteError as error:
        outcome, timings = error.kind, {}
    assert answer.startswith(outcome)
    assert word != "slow" or timings["denoiseMs"] >= 300
    assert word != "load" or timings["loadMs"] >= 150
    assert word != "nopreview" or not any("preview" in message for message in messages)
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
@pytest.mark.parametrize("word", ["hang", "sleep"])
def test_a_cancel_of_what_hangs_is_answered_within_two_seconds(word, hosts):
    host = hosts.session()
    call = host.begin(f"fake:{word}=encoding a lake", steps=2)
    until(call, "encoding")
    call.cancel()
    assert error_of(call, 4).kind == "RequestCancelled"


@pytest.mark.slow
def test_words_in_the_variable_hold_for_every_job_and_for_loading(hosts, monkeypatch):
    monkeypatch.setenv("LOCARA_FAKE_FAULTS", "fake:crash=loading fake:nopreview")
    host = hosts.session()
    for call in (host.begin(steps=1), host.start("models.load", {"model": "pocket"})):
        assert error_of(call).data["status"] == 70
    monkeypatch.setenv("LOCARA_FAKE_FAULTS", "fake:kill=start")
    error = error_of(hosts.session().begin(steps=1))
    assert (error.kind, error.data["signal"]) == ("EngineUnavailable", "SIGKILL")


@pytest.mark.slow
def test_times_come_from_the_environment(hosts, monkeypatch):
    for name in runtime._DEFAULTS:
        monkeypatch.setenv(f"LOCARA_FAKE_{name.upper()}", "120")
    timings = hosts.session().generate(steps=1)["timings"]
    assert min(timings[name] for name in ("loadMs", "encodeMs", "denoiseMs", "decodeMs")) >= 120
    assert timings["totalMs"] >= 5 * 120


def test_unknown_words_and_phases_do_nothing(host):
    assert host.generate("fake:unknown=1 fake:crash=nowhere FAKE:CRASH=loading fake:crash a lake", steps=1)["images"]


def test_the_line_limit_for_hosts_holds_the_longest_answers(hosts):
    host = hosts.session()
    host.call("rpc.discover")
    longest = max(len(line) for way, line in host.lines if way == "receive")
    assert 64 * 1024 < longest < 8 * 1024 * 1024
