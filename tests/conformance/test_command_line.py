"""The harness's command line in unusual circumstances: reports, terminals, times, Ctrl-C."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locara_conformance import __main__ as program
from locara_conformance import runner
from locara_conformance.outcomes import Outcome

ROOT = Path(__file__).resolve().parents[2]
SILENT = [sys.executable, "-c", "pass"]
QUICK = ("--only", "lifecycle.initialize")


def spawn_program(*arguments, spawned=SILENT, environment=None, temporary=None):
    more = {"PYTHONPATH": str(ROOT / "protocol" / "conformance")} | (environment or {})
    if temporary is not None:
        temporary.mkdir()
        more["TMPDIR"] = str(temporary)
    return subprocess.Popen(
        [sys.executable, "-m", "locara_conformance", *arguments, *([] if spawned is None else ["--", *spawned])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


def run_program(*arguments, **more):
    with spawn_program(*arguments, **more) as running:
        told = running.communicate(timeout=50)
    return subprocess.CompletedProcess(arguments, running.returncode, *told)


@pytest.mark.parametrize("word", ["nan", "inf", "-1", "0", "1e18", "soon"])
@pytest.mark.parametrize("side", [(), ("host",)], ids=["implementation", "host"])
def test_a_time_that_nobody_can_wait_is_a_wrong_command_line(word, side):
    done = run_program(*side, f"--timeout={word}", "--list")
    assert done.returncode == program.USAGE
    assert "not a number of seconds" in done.stderr


@pytest.mark.parametrize("report", ["--json", "--junit", "--html", "--text"])
def test_a_report_that_cannot_be_written_is_told_before_anything_runs(report, tmp_path):
    for place in (tmp_path, tmp_path / "not there" / "report"):
        done = run_program(report, str(place), *QUICK, spawned=[sys.executable, "-c", "print('ran')"])
        assert done.returncode == program.USAGE
        assert done.stdout == ""
        assert f"{place} cannot be written" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_loses_one_report_and_no_other(tmp_path):
    other = tmp_path / "report.xml"
    done = run_program("--json", "/dev/full", "--junit", str(other), *QUICK, spawned=SILENT)
    assert done.returncode == program.HARNESS
    assert "/dev/full could not be written: No space left on device" in done.stderr
    assert "lifecycle.initialize" in other.read_text()
    assert "1 checks: 1 FAILURE" in done.stdout


def test_a_terminal_without_arrows_gets_the_text_all_the_same():
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = run_program(*QUICK, spawned=SILENT, environment=environment)
    assert done.returncode == program.BROKEN
    assert "\\u2192 {" in done.stdout


def test_a_command_that_is_no_text_is_reported(tmp_path):
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9")
    Path(odd).symlink_to("/bin/cat")
    file = tmp_path / "report.json"
    done = run_program("--json", str(file), *QUICK, "--timeout", "0.1", spawned=[odd, "/dev/null"])
    assert done.returncode == program.BROKEN
    assert "caf\\udce9" in file.read_text()


def test_who_forgets_the_dashes_is_told_of_them():
    done = run_program("locara-sidecar", "serve", spawned=None)
    assert done.returncode == program.USAGE
    assert "the command goes after --" in done.stderr


def test_a_list_of_expected_failures_that_is_no_text_is_named(tmp_path):
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    done = run_program("--expected-failures", str(tmp_path / "list"), "--list")
    assert done.returncode == program.USAGE
    assert f"{tmp_path / 'list'} is not a text file in UTF-8" in done.stderr


def gone(pid):
    """Wait until no process has that id: a killed one keeps it until the system's first process reaps it."""
    until = time.monotonic() + 50
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            assert time.monotonic() < until, "it is still there"
            time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT of another process is not the terminal's there")
@pytest.mark.parametrize("side", [(*QUICK,), ("host", "dying")], ids=["implementation", "host"])
def test_ctrl_c_ends_it_with_a_sentence_and_leaves_nothing(side, tmp_path):
    begun = tmp_path / "begun"
    waits = [
        sys.executable,
        "-c",
        f"import os, sys; open({str(begun)!r}, 'w').write(str(os.getpid())); sys.stdin.read()",
    ]
    if side[0] == "host":
        waits = [*waits[:-1], waits[-1] + "; __import__('time').sleep(60)"]
    with spawn_program(*side, spawned=waits, temporary=tmp_path / "temporary") as running:
        while not (begun.exists() and begun.read_text()):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=50)
    assert running.returncode == program.INTERRUPTED
    assert told.strip().splitlines() == ["locara-conformance: interrupted; no report was written"]
    assert list((tmp_path / "temporary").iterdir()) == []
    gone(int(begun.read_text()))


def test_a_closed_standard_output_ends_it_without_a_traceback():
    with spawn_program("--timeout", "1", *QUICK, spawned=SILENT) as running:
        running.stdout.close()
        running.wait(timeout=50)
        assert running.stderr.read() == "locara-conformance: standard output was closed; no report was written\n"
    assert running.returncode == program.HARNESS


def test_a_line_without_an_end_is_bounded_and_told():
    shouts = "import os\nwhile True: os.write(1, b'x' * 65536)"
    results = runner.run([sys.executable, "-c", shouts], [runner.CHECKS["lifecycle.initialize"]], timeout=20)
    found = {one.check.id: (one.outcome, one.reason) for one in results}
    assert found["lifecycle.initialize"] == (
        Outcome.FAILURE,
        "it wrote a line of more than 64 MiB before answer to initialize",
    )
    outcome, reason = found["framing.sizes"]
    assert outcome is Outcome.FAILURE
    assert int(reason.split()[3]) < (64 << 20) + (1 << 17)  # the part of it that is kept
    assert reason.endswith("that has not ended")


def test_the_exchange_is_kept_of_the_first_violations_only():
    answers = '{"jsonrpc":"2.0","id":99,"result":{}}'
    floods = f"import sys\nsys.stdin.readline()\nfor _ in range(5000): print('{answers}')"
    its_lab = runner.Lab([sys.executable, "-c", floods], timeout=10)
    try:
        runner._one(its_lab, runner.CHECKS["lifecycle.initialize"])
        found = its_lab.violations["jsonrpc.answered-once"]
    finally:
        its_lab.close()
    assert len(found) == 5000
    assert sum(1 for _, exchange in found if exchange) <= 10


def test_a_stream_of_another_kind_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert program.main(["--list"]) == program.HOLD
    assert "lifecycle.initialize" in sys.stdout.getvalue()
