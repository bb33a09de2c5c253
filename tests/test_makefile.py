"""``make setup`` installs the engines for its platform."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


@pytest.mark.parametrize(
    ("system", "machine", "extras"),
    [("Darwin", "arm64", "torch,mlx,dev"), ("Darwin", "x86_64", "torch,dev"), ("Linux", "aarch64", "torch,mlx,dev")],
)
def test_the_tests_have_every_engine_that_there_is_for_the_machine(tmp_path, system, machine, extras):
    uname = tmp_path / "uname"
    uname.write_text(f'#!/bin/sh\ncase "$1" in -s) echo {system};; -m) echo {machine};; esac\n')
    uname.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    words = subprocess.run(
        ["make", "-n", "-B", "setup"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"-e '.[{extras}]'" in words


def test_what_the_tauri_plugin_lacks_is_said_before_anything_is_compiled(tmp_path):
    for program, text in {"uname": "echo Linux", "pkg-config": "exit 1", "cargo": "exit 0", "npm": "exit 99"}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    there = ["-o", ".venv/.ready", "-o", "packaging/tauri/examples/studio/node_modules/.ready"]
    done = subprocess.run(
        ["make", *there, "test-tauri"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "apt-get install libwebkit2gtk-4.1-dev" in done.stdout
