"""Finding out whether a child process has ended, with and without a system call that does not reap it."""

import os
import subprocess
import sys

import pytest

from locara_sidecar.machine.processes import child as children


@pytest.mark.skipif(children.ended(os.getpid(), wait=False) is None, reason="cannot look here")
def test_a_child_that_has_ended_is_seen_and_left_to_be_reaped():
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert children.ended(child.pid, wait=True) is True
    assert children.ended(child.pid, wait=False) is True
    assert child.wait() == 0
    assert children.ended(child.pid, wait=False) is True


@pytest.mark.parametrize(("platform", "version", "looks"), [
    ("darwin", (3, 11), False), ("darwin", (3, 12), False), ("darwin", (3, 13), True), ("win32", (3, 13), False),
])  # fmt: skip
def test_macos_has_the_call_from_python_3_13_on(monkeypatch, platform, version, looks):
    monkeypatch.setattr(os, "waitid", lambda *_: None, raising=False)
    for name in ("P_PID", "WEXITED", "WNOWAIT", "WNOHANG"):
        monkeypatch.setattr(os, name, 1, raising=False)
    monkeypatch.setattr(children.sys, "platform", platform)
    monkeypatch.setattr(children.sys, "version_info", version)
    assert children.ended(1, wait=False) is (False if looks else None)
