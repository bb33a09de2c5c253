"""The harness itself: what it lists, how it judges, what it writes, and whom it blames."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from locara_conformance import __main__ as program
from locara_conformance import page, report, runner
from locara_conformance.cases import Case, load
from locara_conformance.checks import CHECKS, Check, Result, chosen
from locara_conformance.groups import jsonrpc, replay
from locara_conformance.lab import expect
from locara_conformance.outcomes import Event, Failed, HarnessFault, Late, Outcome, Skip
from locara_conformance.validator import problems
from locara_protocol.generation import schemas
from support import liar
from support.host import command

ROOT = Path(__file__).resolve().parents[2]
GROUPS = Path(replay.__file__).parent
HONEST = [*command("--engine", "fake")]
QUICK = ["lifecycle.initialize", "jsonrpc.shape"]
LYING = liar.command("PrintsOnStdout", *HONEST)


def run_program(*arguments, spawned=HONEST):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "protocol" / "conformance")}
    return subprocess.run(
        [sys.executable, "-m", "locara_conformance", *arguments, "--", *spawned],
        capture_output=True,
        text=True,
        timeout=55,
        env=environment,
    )


def result(id, outcome, reason=""):
    made = Result(CHECKS[id], outcome, reason, 0.1)
    made.exchange = [Event(1, 0.5, "→", '{"a":"<b>\u0001"}', 13), Event(1, 0.6, "←", "{}", 90000)]
    return made


# --- what is checked ---


def test_each_fixture_is_tried_by_a_check():
    asked = [one for _, _, fixtures in [*jsonrpc.ROWS, *jsonrpc.FURTHER] for one in fixtures]
    for path in GROUPS.glob("*.py"):
        calls = re.findall(r'replay\(lab, "([^"]+)"(?:, "([^"]+)")?\)', path.read_text())
        asked += calls
    used = {(case.file, case.description) for one in asked for case in replay.select(*one)}
    assert {(case.file, case.description) for case in load()} - used == set()


def test_ids_have_a_group_and_no_capitals():
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9-]+", id) for id in CHECKS)


def test_it_imports_the_protocol_package_only():
    allowed = {"locara_conformance", "locara_protocol", "msgspec", *sys.stdlib_module_names}
    for path in (ROOT / "protocol" / "conformance").rglob("*.py"):
        names = re.findall(r"^\s*(?:from (\w+)[\w.]* import |import (\w+))", path.read_text(), re.MULTILINE)
        assert {name for pair in names for name in pair if name} <= allowed, path


@pytest.mark.parametrize(
    ("expect", "answers", "any_order", "wrong"),
    [
        ([{"id": 1}], [{"id": 1, "more": 2}], False, None),
        ([{"id": 1}, {"id": 2}], [{"id": 2}, {"id": 1}], True, None),
        ([{"id": 1}, {"id": 2}], [{"id": 2}, {"id": 1}], False, "came where"),
        ([{"id": 1}], [{"id": 1}, {"id": 1}], False, "came unexpectedly"),
        ([{"id": 1}], [{"id": 1}, {"id": 1}], True, "came unexpectedly"),
        ([{"id": 1}], [], False, "no answer like"),
        ([{"id": 1}], [{"id": True}], False, "came where"),
        ([{"id": 1}], [{"id": 1.0}], True, "no answer like"),
        ([{"a": {"$absent": True}}], [{"a": None}], False, "came where"),
        ([[{"id": 1}]], [{"id": 1}], False, "came where"),
        ([[{"id": 1}, {"id": 2}]], [[{"id": 2}, {"id": 1}]], True, None),
    ],
)
def test_what_answers_a_case_takes(expect, answers, any_order, wrong):
    case = Case("file", 1, "description", [], expect, False, any_order, False, "protocol")
    told = case.problem(answers)
    assert (told is None) if wrong is None else (wrong in told)


# --- schemas ---

VALUES = [
    None, True, 0, 1, -1, 4.0, 2.5, "", "a", "é" * 300, [], [1], {}, {"a": 1}, {"channel": 1, "index": 0, "end": True},
    {"channel": 1, "index": 0, "end": False}, {"code": -32602, "message": "x", "data": {"kind": "InvalidParams"}},
    {"code": -32602, "message": "x", "data": {"kind": "InvalidParams", "retryable": 1}},
    {"code": -32602, "message": "x", "data": {"kind": "InvalidParams", "retryable": False, "path": "$"}},
    {"prompt": "a", "options": {"steps": 0}}, {"prompt": "a", "options": {"steps": 4, "preview": {"mode": "x"}}},
    {"prompt": "a", "options": {"guidance": 1e9, "output": {"path": ""}}}, {"prompt": "a", "channel": "__CHANNEL__:7"},
    {"prompt": "a", "image": {"handle": 7}}, {"jobId": "", "channel": -1}, {"jobId": "a", "channel": 4294967296},
    {"model": "a", "maxBytes": -1}, {"limit": 1001}, {"id": True}, {"id": 1.5}, {"requestId": "a", "reason": None},
    {"protocolVersion": 1, "clientInfo": {"name": "a", "version": "1"}, "grants": {"a": 1}},
    {"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1", "capabilities": {"models": ["A B"]}},
]  # fmt: skip


@pytest.mark.parametrize("name", schemas.documents())
def test_the_validator_agrees_with_jsonschema(name):
    document = schemas.documents()[name]
    theirs = jsonschema.Draft202012Validator(document)
    for value in VALUES:
        if type(value) is float and value.is_integer():
            continue  # JSON Schema accepts 4.0 as an integer, the contract does not
        mine = list(problems(document, value))
        assert (not mine) == theirs.is_valid(value), (value, mine)


def test_an_unknown_keyword_is_a_fault_of_the_harness():
    with pytest.raises(HarnessFault, match="multipleOf"):
        list(problems({"multipleOf": 2}, 3))


# --- judging ---


def judged(run, level="MUST"):
    check = Check("test.one", ("WIRE-1",), level, run, False)
    lab = runner.Lab(HONEST)
    try:
        return runner._one(lab, check)
    finally:
        lab.close()


def raising(error):
    def run(_lab):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "level", "outcome"),
    [
        (Failed("x"), "MUST", Outcome.FAILURE),
        (Failed("x"), "SHOULD", Outcome.WARNING),
        (Late("x"), "MUST", Outcome.WARNING),
        (Skip("x"), "MUST", Outcome.SKIPPED),
        (HarnessFault("x"), "MUST", Outcome.ERROR),
        (KeyError("x"), "MUST", Outcome.ERROR),
    ],
)
def test_what_a_check_raises_decides_its_outcome(error, level, outcome):
    found = judged(raising(error), level)
    assert (found.outcome, "x" in found.reason) == (outcome, True)


def test_what_a_check_measured_is_told():
    found = judged(lambda _lab: "12 ms")
    assert (found.outcome, found.reason) == (Outcome.SUCCESS, "12 ms")


def test_a_call_that_breaks_its_own_schema_is_a_fault_of_the_harness():
    found = judged(lambda lab: lab.session().start("image.generate", {"prompt": "a", "stepz": 1}))
    assert found.outcome is Outcome.ERROR
    assert "harness's own image.generate" in found.reason


def test_a_program_that_cannot_be_started_is_no_fault_of_an_implementation(tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    assert runner.run([str(text)], chosen(QUICK))[0].outcome is Outcome.ERROR


def test_expect_fails_with_its_sentence():
    with pytest.raises(Failed, match="why"):
        expect(False, "why")


@pytest.mark.parametrize(
    ("outcomes", "expected", "status", "stale"),
    [
        ({"ending.eof": Outcome.SUCCESS}, [], 0, []),
        ({"ending.eof": Outcome.WARNING, "ending.shutdown": Outcome.SKIPPED}, [], 0, []),
        ({"ending.eof": Outcome.FAILURE}, [], 1, []),
        ({"ending.eof": Outcome.FAILURE}, ["ending.eof"], 0, []),
        ({"ending.eof": Outcome.FAILURE, "ending.shutdown": Outcome.FAILURE}, ["ending.eof"], 1, []),
        ({"ending.eof": Outcome.SUCCESS}, ["ending.eof"], 1, ["ending.eof"]),
        ({"ending.eof": Outcome.SUCCESS}, ["ending.shutdown"], 0, []),
        ({"ending.eof": Outcome.ERROR}, ["ending.eof"], 3, ["ending.eof"]),
    ],
)
def test_the_exit_status(outcomes, expected, status, stale):
    results = [result(id, outcome) for id, outcome in outcomes.items()]
    found = program.mark_expected(results, expected)
    assert (program.verdict(results, found), found) == (status, stale)


# --- the program ---


def test_a_conforming_implementation_ends_with_0_and_a_liar_with_1(tmp_path):
    done = run_program("--only", "lifecycle.initialize", "--only", "jsonrpc.shape")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 checks: 2 SUCCESS; 2 of 2 MUSTs hold" in done.stdout
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    flags = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    done = run_program("--only", "stdout.messages-only", "--timeout", "5", *flags, spawned=LYING)
    assert done.returncode == 1
    assert "FAILURE  MUST   stdout.messages-only: a line is not JSON: b'loading pipeline" in done.stdout
    (told,) = [one for one in json.loads(files["json"].read_text())["results"] if one["outcome"] == "FAILURE"]
    assert any("loading pipeline" in event["text"] for event in told["exchange"])
    assert ElementTree.parse(files["junit"]).getroot().find(".//failure") is not None
    assert "loading pipeline components 100%" in files["html"].read_text()


@pytest.mark.slow
def test_an_expected_failure_passes_and_a_stale_one_does_not(tmp_path):
    listed = tmp_path / "expected"
    listed.write_text("# known\nstdout.messages-only  # prints\n\n")
    only = ["--only", "stdout.messages-only", "--expected-failures", str(listed)]
    done = run_program(*only, "--timeout", "5", spawned=LYING)
    assert done.returncode == 0, done.stdout
    assert "FAILURE (expected) MUST   stdout.messages-only" in done.stdout
    done = run_program(*only)
    assert done.returncode == 1
    assert "STALE    stdout.messages-only" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "spawned", "sentence"),
    [
        (["--only", "no.such"], ["x"], "no check or group called no.such"),
        (["--expected-failures", os.devnull], ["no-such-program"], "no-such-program is not a program"),
        ([], [], "name the implementation after --"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments, spawned, sentence):
    done = run_program(*arguments, spawned=spawned)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_an_unknown_expected_failure_is_refused(tmp_path):
    (tmp_path / "expected").write_text("no.such\n")
    assert run_program("--expected-failures", str(tmp_path / "expected")).returncode == 2


def test_list_names_every_check_without_running_any():
    done = run_program("--list", spawned=[])
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CHECKS)


# --- reports ---

MIXED = [
    ("ending.eof", Outcome.SUCCESS, ""),
    ("ending.shutdown", Outcome.FAILURE, "<script>alert(1)</script> & more"),
    ("signals.sighup", Outcome.SKIPPED, "ignored here"),
    ("ending.process-id", Outcome.WARNING, "late"),
    ("ending.host-death", Outcome.ERROR, "KeyError"),
]


def test_junit_counts_and_escapes():
    results = [result(*one) for one in MIXED]
    root = ElementTree.fromstring(report.junit(results))
    suites = {suite.get("name"): suite for suite in root}
    assert {name: suite.get("failures") for name, suite in suites.items()} == {"ending": "1", "signals": "0"}
    assert suites["ending"].get("errors") == "1"
    assert suites["signals"].get("skipped") == "1"
    assert root.find(".//failure").get("message").startswith("<script>")


def test_the_page_escapes_what_came_and_shows_the_exchange():
    held = result("jobs.list", Outcome.SUCCESS)
    held.exchange = []
    html = page.page(["x", "<i>"], [*(result(*one) for one in MIXED), held], ["ending.eof"])
    assert "<script>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count('class="exchange"') == 5
    assert "(90000 bytes)" in html
    assert "Stale" in html
    folded = 'class="group"><summary><h2 id="jobs">'
    assert (html.count('class="group"'), html.count('class="group" open'), folded in html) == (3, 2, True)


@pytest.mark.slow
def test_the_page_stays_small_whatever_came():
    """198 failures with 4,000 long lines each; a browser opens the page in a second."""
    results = [result(id, Outcome.FAILURE, "x" * 100_000) for id in CHECKS]
    for one in results:
        one.exchange = [Event(1, 0.5, "→", "<" * 1200, 1 << 24)] * 4000
    html = page.page(["x"], results, [])
    assert len(html) < 40 << 20
    assert html.count("3940 lines are left out here") == len(CHECKS)


def test_json_has_every_result():
    tree = json.loads(report.as_json(["x"], [result(*one) for one in MIXED], []))
    assert [one["id"] for one in tree["results"]] == [id for id, _, _ in MIXED]
    assert tree["summary"] == {"SUCCESS": 1, "FAILURE": 1, "WARNING": 1, "SKIPPED": 1, "ERROR": 1}


def test_the_wheel_has_the_fixtures_and_the_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["locara-conformance"] == "locara_conformance.__main__:main"
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"]["protocol/conformance/locara_conformance"] == "locara_conformance"
    assert set(wheel["sources"]) == set(wheel["only-include"])
    for folder in ("jsonrpc", "manifests", "hosts"):
        assert wheel["force-include"][f"fixtures/{folder}"] == f"locara_conformance/fixtures/{folder}"


@pytest.mark.slow
def test_it_runs_from_where_only_the_fixtures_beside_it_are(tmp_path):
    copy = tmp_path / "locara_conformance"
    shutil.copytree(ROOT / "protocol" / "conformance" / "locara_conformance", copy)
    for folder in ("jsonrpc", "manifests", "hosts"):
        shutil.copytree(ROOT / "fixtures" / folder, copy / "fixtures" / folder)
    done = subprocess.run(
        [sys.executable, "-m", "locara_conformance", "--only", "jsonrpc.empty-batch", "--", *HONEST],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
