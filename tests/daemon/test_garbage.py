"""Collections of garbage are short, because they leave out what the imports made."""

import gc
import json
import subprocess
import sys

import pytest

from locara_sidecar.machine.processes import garbage

PROGRAM = """
import gc, os, sys, threading
from locara_sidecar.daemon.access.decisions import Decisions
encoded = Decisions.encoded
def told(self, params):
    here = threading.current_thread() is threading.main_thread()
    os.write(2, f"{gc.get_freeze_count() > 10_000} {gc.get_threshold()[0]} {here}\\n".encode())
    return encoded(self, params)
Decisions.encoded = told
from locara_sidecar.__main__ import main
sys.exit(main())
"""
"""The daemon, which says when it encodes the capability log what is exempt, and whether it does so on the loop."""


def test_a_daemon_exempts_what_it_has_imported_and_encodes_long_answers_off_the_loop():
    argv = [sys.executable, "-c", PROGRAM, "serve", "--engine", "fake", "--log-level", "error"]
    opening = {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "1"}}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as daemon:
        for number, (method, params) in enumerate(
            [("initialize", opening), ("models.usage", {}), ("audit.capabilityLog", {})]
        ):
            line = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            daemon.stdin.write(json.dumps(line).encode() + b"\n")
            daemon.stdin.flush()
            assert "result" in json.loads(daemon.stdout.readline())  # models.usage is only answered by the loop
        errors = daemon.communicate(timeout=20)[1].decode()
    assert errors.split() == ["True", "200", "False"]


@pytest.fixture
def started():
    """The daemon's settings, for a test."""
    thresholds = gc.get_threshold()
    garbage.start()
    yield
    gc.set_threshold(*thresholds)
    garbage._modules.clear()
    gc.unfreeze()


@pytest.mark.usefixtures("started")
def test_what_a_later_import_makes_is_exempt_too(monkeypatch):
    made = [[number] for number in range(1000)]
    before = gc.get_freeze_count()
    garbage.exempt_imports()
    assert gc.get_freeze_count() == before  # nothing was imported
    monkeypatch.setitem(sys.modules, "imported_just_now", made)
    garbage.exempt_imports()
    assert gc.get_freeze_count() >= before + len(made)
