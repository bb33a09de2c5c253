"""How the process that works on a model ends."""

import sys
import threading
import time
from types import SimpleNamespace

import anyio
import msgspec
import psutil
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import DownloadProgress
from locara_sidecar.daemon.model_methods import model_work, worker_process
from locara_sidecar.machine import own_files
from locara_sidecar.models import worker
from support.model_store import entry_for

LAST = msgspec.json.encode(worker.WorkerResult(digest="sha256:0", bytes=0, files=0)) + b"\n"
WORK = SimpleNamespace(op="verify", folder=None)


@pytest.fixture(autouse=True)
def not_begun(monkeypatch):
    """Forget what another test's daemon was started from."""
    monkeypatch.setattr(model_work.program, "_first", [])


@pytest.fixture
def scripted(monkeypatch):
    """Let a worker take its work, run ``code`` and end."""

    def use(code):
        program = f"import os, sys, time; sys.stdin.readline(); LAST = {LAST!r}\n{code}\nos._exit(0)"
        monkeypatch.setattr(model_work, "_argv", lambda: [sys.executable, "-c", program])
        monkeypatch.setattr(worker_process.msgspec.json, "encode", lambda work: b"{}")

    return use


def run(work=WORK):
    return anyio.run(lambda: model_work.run_for_user(work, lambda progress: None))


def performed(monkeypatch, tmp_path, body):
    """Run a real worker whose work is this body of a function."""
    program = (
        "from locara_protocol.errors import RpcError; from locara_sidecar.models import worker\n"
        f"def perform(*_):\n{body}"
        "worker.perform = perform; worker.main()"
    )
    monkeypatch.setattr(model_work, "_argv", lambda: [sys.executable, "-c", program])
    work = worker.WorkerRequest(op="verify", root=str(tmp_path), entry=entry_for())
    anyio.run(lambda: model_work.run_for_user(work, lambda progress: None))


def test_a_worker_that_has_told_its_last_ends_by_itself(scripted, tmp_path):
    scripted(f"os.write(1, LAST); time.sleep(0.2); open({str(tmp_path / 'ended')!r}, 'w')")
    assert run().digest == "sha256:0"
    assert (tmp_path / "ended").exists()


def test_a_worker_that_does_not_end_is_killed(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "_ENDING_SECONDS", 0.2)
    scripted(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); os.write(1, LAST); time.sleep(60)")
    began = time.monotonic()
    assert run().digest == "sha256:0"
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("words", [["/no/such/python3.11"], [sys.executable, "-c", "import no_such_module"]])
def test_a_worker_that_an_update_has_left_nothing_of_says_so(monkeypatch, tmp_path, words):
    monkeypatch.setattr(model_work, "_argv", lambda: words)
    work = worker.WorkerRequest(op="verify", root=str(tmp_path), entry=entry_for())
    with pytest.raises(RpcError, match="Restart the sidecar") as told:
        anyio.run(lambda: model_work.run_for_user(work, lambda progress: None))
    assert (told.value.kind, told.value.data) == ("StorageError", {"errno": "ENOENT", "reason": "updated"})


def test_a_worker_whose_modules_an_update_has_replaced_as_it_worked_says_so(monkeypatch, tmp_path):
    body = "    import no_such_module\n"
    with pytest.raises(RpcError, match="lacks no_such_module") as told:
        performed(monkeypatch, tmp_path, body)
    assert (told.value.kind, told.value.data) == ("StorageError", {"errno": "ENOENT", "reason": "updated"})


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(3)", "os.write(1, b'half'); os._exit(1)"])
def test_a_worker_that_ends_without_a_report_is_a_bug(scripted, end):
    scripted(end)
    with pytest.raises(RuntimeError, match="without giving a reason"):
        run()


@pytest.fixture
def prefix(monkeypatch, tmp_path):
    """The folder that workers are started from."""
    folder = tmp_path / "python"
    folder.mkdir()
    monkeypatch.setattr(sys, "prefix", str(folder))
    return folder


FAILED = [("StorageError", "no", False, {"reason": "updated"}), ("IntegrityError", "no", False, {})]
FAILS = ["os.kill(os.getpid(), 9)", "os.write(1, LACKS)", "os.write(1, DAMAGED)"]


@pytest.mark.parametrize("fails", FAILS)
@pytest.mark.parametrize("replaced", [True, False])
def test_what_a_worker_did_not_do_as_its_files_were_replaced_another_does(scripted, prefix, fails, replaced):
    """However it failed: a missing import or file is not the model's fault. All progress is reported once."""
    lacks, damaged = (msgspec.json.encode(worker.Failed(*failed)) + b"\n" for failed in FAILED)
    told = [msgspec.json.encode(worker.ProgressFrame(progress(count))) + b"\n" for count in (1, 2, 3)]
    update = f"os.rename({str(prefix)!r}, {str(prefix) + '.old'!r}); os.mkdir({str(prefix)!r})" if replaced else "pass"
    scripted(
        f"LACKS, DAMAGED, TOLD = {lacks!r}, {damaged!r}, {told!r}\n"
        f"open({str(prefix) + '.runs'!r}, 'a').write('x')\n"
        f"first = not os.path.exists({str(prefix) + '.old'!r})\n"
        f"for line in TOLD[: 2 if first else 3]: os.write(1, line)\n"
        f"if first:\n    {update}\n    {fails}\n    os._exit(0)\n"
        "os.write(1, LAST)"
    )
    seen = []

    def work():
        own = SimpleNamespace(op="verify", folder=str(prefix / "models" / "mine"))
        return anyio.run(lambda: model_work.run_for_user(own, lambda each: seen.append(each.bytes)))

    if replaced:
        assert work().digest == "sha256:0"
        assert seen == [1, 2, 3]
        assert prefix.with_name("python.runs").read_text() == "xx"
    else:
        with pytest.raises((RpcError, RuntimeError)):
            work()
        assert seen == [1, 2]
        assert prefix.with_name("python.runs").read_text() == "x"


@pytest.mark.parametrize(
    ("op", "fails", "runs"),
    [
        ("verify", "os.write(1, DAMAGED)", "x"),  # it has taken what is damaged out of use
        ("verify", "os.kill(os.getpid(), 9)", "xx"),
        ("import", "os.write(1, DAMAGED)", "xx"),
        ("derive", "os.write(1, DAMAGED)", "x"),  # it has moved what the engine made
        ("derive", "os.kill(os.getpid(), 9)", "x"),
    ],
)
def test_work_of_which_a_repeat_would_hide_what_was_found_is_not_repeated(scripted, prefix, op, fails, runs):
    damaged = msgspec.json.encode(worker.Failed(*FAILED[1])) + b"\n"
    scripted(
        f"open({str(prefix) + '.runs'!r}, 'a').write('x'); DAMAGED = {damaged!r}\n"
        f"if not os.path.exists({str(prefix) + '.old'!r}):\n"
        f"    os.rename({str(prefix)!r}, {str(prefix) + '.old'!r}); os.mkdir({str(prefix)!r})\n"
        f"    {fails}\n    os._exit(0)\n"
        "os.write(1, LAST)"
    )
    work = SimpleNamespace(op=op, folder=str(prefix.parent / "theirs"))
    if runs == "xx":
        assert run(work).digest == "sha256:0"
    else:
        with pytest.raises((RpcError, RuntimeError)):
            run(work)
    assert prefix.with_name("python.runs").read_text() == runs


@pytest.mark.parametrize("again", [True, False])
def test_what_a_worker_could_not_do_in_files_that_were_just_replaced_is_repeated_or_told(
    scripted, prefix, monkeypatch, again
):
    """In a folder whose own place an update has not changed, as one that copies file by file."""
    first = prefix.with_name("first")
    monkeypatch.setattr(own_files, "settled_since", lambda _: True)
    scripted(
        f"if {not again} or not os.path.exists({str(first)!r}):\n    open({str(first)!r}, 'w').close(); os._exit(3)\n"
        "os.write(1, LAST)"
    )
    if again:
        assert run().digest == "sha256:0"
    else:
        with pytest.raises(RpcError, match="Restart the sidecar") as caught:
            run()
        assert caught.value.data["reason"] == "updated"


@pytest.mark.parametrize("said", ["b'{}\\n'", 'b\'{"type":"later"}\\n\'', "b''"])
def test_a_worker_of_another_version_says_that_an_update_is_why(scripted, prefix, said):
    model_work.program.begin()
    replaced = f"os.rename({str(prefix)!r}, {str(prefix)!r} + '.old'); os.mkdir({str(prefix)!r})"
    scripted(f"if not os.path.exists({str(prefix)!r} + '.old'): {replaced}\nos.write(1, {said}); os._exit(3)")
    with pytest.raises(RpcError) as caught:
        run()
    assert (caught.value.kind, caught.value.data["reason"]) == ("StorageError", "updated")


def progress(count):
    return DownloadProgress(
        model="mine", phase="verifying", bytes=count, total_bytes=3, files=1, total_files=1, bytes_per_second=1
    )


def test_a_worker_waits_for_a_folder_that_is_away_between_two_renames(scripted, prefix):
    scripted(f"assert os.path.isdir({str(prefix)!r}); os.write(1, LAST)")
    away = prefix.with_name("old")
    prefix.rename(away)
    timer = threading.Timer(0.3, away.rename, [prefix])
    timer.start()
    assert run().digest == "sha256:0"
    timer.join()


def test_what_fails_as_updates_follow_each_other_ends(scripted, prefix):
    """Each worker finds that its folder was replaced."""
    count = prefix.with_name("count")
    scripted(
        f"open({str(count)!r}, 'a').write('x')\n"
        f"os.rename({str(prefix)!r}, {str(prefix)!r} + str(os.getpid())); os.mkdir({str(prefix)!r}); os._exit(3)"
    )
    with pytest.raises(RuntimeError, match="without giving a reason"):
        run()
    assert count.read_text() == "xxx"


@pytest.mark.parametrize("files", [4096, 100_000])
def test_the_longest_failure_of_a_worker_is_told_by_its_kind(monkeypatch, tmp_path, files):
    """A longer line than was read used to be an InternalError."""
    body = (
        f"    names = ['\\U0001f600' * 1024] * {files}\n"
        "    raise RpcError('IntegrityError', 'many', model='mine', files=names, prepared=names)\n"
    )
    with pytest.raises(RpcError) as told:
        performed(monkeypatch, tmp_path, body)
    assert (told.value.kind, told.value.message, told.value.data["model"]) == ("IntegrityError", "many", "mine")
    assert 100 < len(told.value.data["files"]) < files
    assert len(msgspec.json.encode(told.value.data)) > worker.MAX_EVENT // 4


def test_a_traceback_without_end_does_not_hide_what_failed(monkeypatch, tmp_path):
    """It repeats what a library says about a file."""
    body = "    raise KeyError('\\udce9' * (8 << 20))\n"
    with pytest.raises(RuntimeError, match="the model's worker failed"):
        performed(monkeypatch, tmp_path, body)
