"""The record of decisions on disk has whole lines and a bounded size, stays in its folder and never delays a job."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_protocol.messages import AuditEntry
from locara_protocol.methods import METHODS
from locara_sidecar.capability.audit import AuditLog
from locara_sidecar.capability.auditfile import NAME, OLDER, AppendedFile, AuditWriter
from locara_sidecar.capability.authorize import AccessRequest, audit_folder, authorize
from locara_sidecar.capability.files.system import System
from locara_sidecar.capability.policy import Policy
from support.granted_folders import Faulty, grant_for, manifest


def decisions(count: int) -> list[AuditEntry]:
    log = AuditLog()
    for number in range(count):
        log.record(capability="models", resource="pocket", decision="allow", reason="granted", request_id=number)
    return log.entries()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("access", "granted", "expected"),
    [("write", True, True), ("read-write", True, True), ("read", True, False), ("write", False, False)],
)
def test_the_file_needs_a_declared_and_granted_app_data(tmp_path: Path, access: str, granted: bool, expected: bool):
    policy = Policy.build(manifest(fs={"app-data": access}), {"app-data": str(tmp_path)} if granted else None)
    assert (audit_folder(policy) is not None) == expected
    assert audit_folder(Policy.build(None, {"app-data": str(tmp_path)})) is None


def test_a_grant_to_read_opens_nothing(tmp_path: Path):
    with pytest.raises(TypeError):
        AppendedFile(str(tmp_path))  # type: ignore[arg-type]


def test_entries_are_appended_as_lines_with_the_session_and_the_user_s_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        for session in ("one", "two"):
            writer = AuditWriter(grant_for(tmp_path), session)
            for entry in decisions(3):
                writer.put(entry)
            assert writer.flush(5)
    finally:
        os.umask(before)
    rows = lines(tmp_path / NAME)
    assert [(row["session"], row["seq"]) for row in rows] == [(s, n) for s in ("one", "two") for n in (1, 2, 3)]
    expected = {"seq", "time", "capability", "resource", "decision", "reason", "requestId", "session"}
    assert set(rows[0]) == expected
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o640


def test_two_files_bound_it(tmp_path: Path):
    file = AppendedFile(grant_for(tmp_path), max_bytes=1000)
    for number in range(100):
        file.append(f"{number:098}\n".encode())
    file.close()
    assert sorted(os.listdir(tmp_path)) == [OLDER, NAME]
    kept = [int(line) for name in (OLDER, NAME) for line in (tmp_path / name).read_text().split()]
    assert kept == list(range(100 - len(kept), 100))
    assert all((tmp_path / name).stat().st_size <= 1000 for name in (NAME, OLDER))


def test_several_daemons_share_it_without_losing_or_mixing_lines(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from support.granted_folders import grant_for;"
        "from locara_sidecar.capability.auditfile import AppendedFile;"
        "file = AppendedFile(grant_for(Path(sys.argv[1])), max_bytes=1 << 20);"
        "[file.append(f'{sys.argv[2]} {n}'.ljust(80).encode() + b'\\n') for n in range(200)]"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*words, str(number)], env=env) for number in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    rows = (tmp_path / NAME).read_text().splitlines()
    assert sorted(row.strip() for row in rows) == sorted(f"{who} {n}" for who in range(3) for n in range(200))


def link(tmp_path: Path, name: Path) -> None:
    name.symlink_to(tmp_path / "victim")


def hard_link(tmp_path: Path, name: Path) -> None:
    os.link(tmp_path / "victim", name)


def pipe(tmp_path: Path, name: Path) -> None:
    os.mkfifo(name)


def folder(tmp_path: Path, name: Path) -> None:
    name.mkdir()


@pytest.mark.parametrize("planted", [link, hard_link, pipe, folder])
def test_what_is_planted_under_its_name_leads_nowhere(tmp_path: Path, planted: Any):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "root").mkdir()
    planted(tmp_path, tmp_path / "root" / NAME)
    writer = AuditWriter(grant_for(tmp_path / "root"), "s")
    writer.put(decisions(1)[0])
    assert writer.flush(5)
    assert writer.dropped == 1
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_link_under_the_older_name_is_replaced_and_not_followed(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / OLDER).symlink_to(tmp_path / "victim")
    file = AppendedFile(grant_for(tmp_path / "root"), max_bytes=10)
    file.append(b"12345678\n")
    file.append(b"12345678\n")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "root" / OLDER).read_bytes() == b"12345678\n"


def test_every_failing_call_costs_a_line_and_no_descriptor(tmp_path: Path):
    counting = Faulty()
    file = AppendedFile(grant_for(tmp_path), system=counting, max_bytes=1)  # type: ignore[arg-type]
    file.append(b"x\n")
    for failing in range(1, len(counting.calls)):
        faulty = Faulty(failing)
        file = AppendedFile(grant_for(tmp_path), system=faulty, max_bytes=1)  # type: ignore[arg-type]
        before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        with pytest.raises(OSError, match=r"."):
            file.append(b"x\n")
        if sys.platform == "linux":
            assert len(os.listdir("/proc/self/fd")) == before, faulty.calls
        file._system = counting  # type: ignore[assignment]
        file.close()


def test_a_folder_that_comes_later_is_written_to_from_then_on(tmp_path: Path):
    writer = AuditWriter(grant_for(tmp_path / "later"), "s")
    first, second = decisions(2)
    writer.put(first)
    assert writer.flush(5)
    (tmp_path / "later").mkdir()
    writer.put(second)
    assert writer.flush(5)
    assert [row["seq"] for row in lines(tmp_path / "later" / NAME)] == [2]


def test_a_disk_that_hangs_makes_the_queue_full_and_nobody_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    going_on = threading.Event()
    honest = AppendedFile.append

    def append(self: AppendedFile, line: bytes) -> None:
        going_on.wait(30)
        honest(self, line)

    monkeypatch.setattr(AppendedFile, "append", append)
    writer = AuditWriter(grant_for(tmp_path), "s")
    entry = decisions(1)[0]
    began = time.monotonic()
    for _ in range(3000):
        writer.put(entry)
    assert time.monotonic() - began < 5
    assert not writer.flush(0)
    going_on.set()
    assert writer.flush(20)
    assert writer.dropped in (1999, 2000), "1,000 wait, and one may be in hand"
    assert len(lines(tmp_path / NAME)) + writer.dropped == 3000


def session(hosts: Any, tmp_path: Path, declared: dict[str, str]) -> Any:
    (tmp_path / "data").mkdir()
    host = hosts.spawn()
    wanted = manifest(fs={"user-folder": "write", **declared})
    host.initialize(manifest=wanted, grants={"user-folder": str(host.folder), "app-data": str(tmp_path / "data")})
    return host


def test_the_wire_tells_every_decision_with_its_request_and_never_the_prompt(hosts: Any, tmp_path: Path):
    host = session(hosts, tmp_path, {"app-data": "write"})
    assert host.call("audit.capabilityLog") == {"entries": []}
    host.generate("a secret lighthouse", steps=1)
    with pytest.raises(Exception, match="manifest"):
        host.generate("a secret lighthouse", model="sd3.5-large")
    entries = host.call("audit.capabilityLog")["entries"]
    assert [(entry["seq"], entry["decision"], entry["reason"]) for entry in entries] == [
        (1, "allow", "granted"),
        (2, "deny", "notDeclared"),
    ]
    assert entries[0]["capability"] == "modality:text-to-image"
    assert (entries[1]["capability"], entries[1]["resource"]) == ("models", "sd3.5-large")
    assert all(isinstance(entry["requestId"], int) for entry in entries)
    assert host.call("audit.capabilityLog", {"after": 1})["entries"] == entries[1:]
    assert host.call("audit.capabilityLog", {"limit": 1})["entries"] == entries[1:]
    assert host.call("audit.capabilityLog", {"limit": 1, "after": 0})["entries"] == entries[:1]
    assert host.close() == 0
    text = (tmp_path / "data" / NAME).read_text()
    assert [json.loads(line)["seq"] for line in text.splitlines()] == [1, 2]
    assert "lighthouse" not in text + json.dumps(entries) + host.log()


@pytest.mark.slow
def test_without_the_declaration_nothing_is_written_and_a_broken_folder_fails_no_job(hosts: Any, tmp_path: Path):
    host = session(hosts, tmp_path, {})
    host.generate(steps=1)
    assert host.close() == 0
    assert os.listdir(tmp_path / "data") == []
    (tmp_path / "data").rmdir()
    host = session(hosts, tmp_path, {"app-data": "read-write"})
    (tmp_path / "data" / NAME).mkdir()
    assert host.generate(steps=1)["images"]
    assert host.call("audit.capabilityLog")["entries"]


@pytest.mark.parametrize("name", ["image.generate"])
def test_the_gate_itself_leaves_no_prompt_in_a_decision(name: str):
    log = AuditLog()
    wanted = AccessRequest(models=("pocket",))
    try:
        decision = authorize(Policy.build(None, None), METHODS[name], wanted)
    except RpcError as denied:
        decision = denied
    entry = log.record_decision(method=name, wanted=wanted, decision=decision, request_id=1)
    assert set(entry.__struct_fields__) == {
        *("seq", "time", "capability", "resource", "decision", "reason", "request_id"),
    }


def test_a_folder_that_went_and_came_again_is_written_to_after_one_lost_line(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    writer = AuditWriter(grant_for(folder), "s")
    for entry in decisions(3):
        writer.put(entry)
        assert writer.flush(5)
        if entry.seq == 1:
            (folder / NAME).unlink()
            folder.rmdir()
            folder.mkdir()
    assert [row["seq"] for row in lines(folder / NAME)] == [3]
    assert writer.dropped == 1


class AnotherDaemon(System):
    """Another daemon rotates the file just before we get the lock."""

    def __init__(self, folder: Path) -> None:
        self._there = folder

    def try_lock(self, fd: int) -> None:
        if not (self._there / OLDER).exists():
            (self._there / NAME).rename(self._there / OLDER)
            (self._there / NAME).write_bytes(b"theirs\n")
        super().try_lock(fd)


def test_who_comes_second_rotates_nothing_and_goes_on_in_the_new_file(tmp_path: Path):
    file = AppendedFile(grant_for(tmp_path), system=AnotherDaemon(tmp_path), max_bytes=20)
    file.append(b"1234567890123456\n")
    file.append(b"mine\n")
    file.close()
    assert (tmp_path / OLDER).read_bytes() == b"1234567890123456\n"
    assert (tmp_path / NAME).read_bytes() == b"theirs\nmine\n"


class Locked(System):
    """Another process holds the lock on the full file forever."""

    def try_lock(self, fd: int) -> None:
        raise BlockingIOError(11, "held")


def test_a_full_file_that_another_holds_grows_to_twice_its_size_and_no_further(tmp_path: Path):
    file = AppendedFile(grant_for(tmp_path), system=Locked(), max_bytes=20)
    for _ in range(4):
        file.append(b"123456789\n")
    with pytest.raises(OSError, match="full"):
        file.append(b"123456789\n")
    file.close()
    assert os.listdir(tmp_path) == [NAME]
    assert (tmp_path / NAME).stat().st_size == 40


def test_a_line_of_which_the_disk_took_a_part_is_a_lost_one(tmp_path: Path):
    class Short(System):
        def write(self, fd: int, data: memoryview) -> int:
            return os.write(fd, data[:3])

    file = AppendedFile(grant_for(tmp_path), system=Short())
    with pytest.raises(OSError, match="part"):
        file.append(b"123456789\n")
    file.close()
