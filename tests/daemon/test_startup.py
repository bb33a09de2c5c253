"""What happens between spawning the daemon and its first answer; the benchmark measures the time."""

import json
import subprocess
import sys

import pytest

from locara_protocol.client import RemoteError, Sidecar
from support.host import manifest

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'

LATER = {
    "the event loop": ("asyncio", "ssl", "subprocess", "socket", "anyio._backends._asyncio"),
    "an engine": (
        "torch",
        "mlx",
        "diffusers",
        "transformers",
        "numpy",
        "PIL",
        "locara_sidecar.daemon.engine_host.client",
    ),
    "a model": ("huggingface_hub", "httpx2", "hashlib", "locara_sidecar.models.cache.store"),
    "a terminal": ("rich", "shtab", "locara_sidecar.cli.output.console", "locara_sidecar.cli.output.pictures"),
    "a session": ("ctypes", "psutil", "tempfile", "importlib.metadata", "locara_protocol.generation.openrpc"),
}
"""Modules by what first needs them; a ping needs none of them."""

UNTIL_THE_LOOP = """
import anyio, os, sys, threading

def instead_of_the_loop(main):
    daemon = main.__self__
    for thread in threading.enumerate():
        while thread.name == "stdin" and thread.is_alive():  # it waits for what it has read to be looked at
            daemon._drain()
            thread.join(0.01)
    daemon._outbox.close()
    daemon._writer.wait(5)  # as the loop would before the process ends
    os.write(2, " ".join(sys.modules).encode())

anyio.run = instead_of_the_loop
from locara_sidecar.cli.arguments import run
run(["serve", "--engine", "fake", "--log-level", "error"])
"""
"""``serve`` up to the start of its event loop, after it has handled every line that stdin held."""


def test_the_first_ping_is_answered_before_the_event_loop_and_anything_heavy_is_imported():
    done = subprocess.run([sys.executable, "-c", UNTIL_THE_LOOP], input=PING, capture_output=True, timeout=30)
    imported = set(done.stderr.decode().split())
    assert "locara_sidecar.daemon.wire.server" in imported
    assert {why: found for why, names in LATER.items() if (found := imported & set(names))} == {}
    assert json.loads(done.stdout)["result"]["engine"]["state"] == "stopped"


WITHOUT_A_LOOP = """
import anyio
from locara_sidecar.cli.arguments import run

real, tries = anyio.run, []

def instead(main):
    tries.append(None)
    if len(tries) == 1 and "{error}" == "LookupError":
        raise LookupError("No such backend") from ImportError("asyncio")  # as anyio does
    if len(tries) == 1:
        raise FileNotFoundError(2, "a module that was just renamed")
    real(main)

anyio.run = instead
run(["serve", "--engine", "fake", "--log-level", "error"])
"""


@pytest.mark.parametrize("error", ["LookupError", "FileNotFoundError"])
def test_a_daemon_that_cannot_import_its_event_loop_as_an_update_renames_it_tries_again(error):
    """It has answered its host already."""
    program = WITHOUT_A_LOOP.replace("{error}", error)
    done = subprocess.run([sys.executable, "-c", program], input=PING, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["result"]


NO_LOOP = """
import sys
from locara_sidecar.cli.arguments import run

sys.modules["asyncio"] = None  # an update has taken it away
run(["serve", "--engine", "fake", "--log-level", "error", *sys.argv[1:]])
"""


def test_a_daemon_whose_event_loop_an_update_has_taken_away_says_so_to_every_call(tmp_path):
    """It ended with status 1, and calls were left without an answer."""
    asked = manifest("pocket")
    words = [sys.executable, "-c", NO_LOOP, "--cache-dir", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log, Sidecar(words, stderr=log) as sidecar:
        sidecar.initialize(manifest=asked, grants={"user-folder": str(tmp_path)})
        for method, params in [("image.generate", {"prompt": "x"}), ("models.load", {"model": "pocket"})] * 20:
            with pytest.raises(RemoteError, match="Restart the sidecar") as caught:
                sidecar.call(method, params, timeout=20)
            assert caught.value.data["reason"] == "updated"
        calls = [sidecar.start("image.generate", {"prompt": "x"}, stream=True) for _ in range(3)]
        for call in calls:
            assert list(call.messages()) == []  # it used to have no end
            with pytest.raises(RemoteError, match="Restart the sidecar"):
                call.result(20)
        assert not sidecar.violations
        assert sidecar.call("ping", timeout=20)["engine"]["state"] == "stopped"
        assert sidecar.close() == 0
    said = [json.loads(line)["msg"] for line in (tmp_path / "log").read_text().splitlines()]
    assert said[0] == "there is no event loop; calls are refused"
    assert "the daemon failed" not in said  # the host ended it, in order
