"""An isolated interpreter, as in the folder that an app ships, also starts its processes isolated."""

import json
import os
import subprocess
import sys

import pytest

from locara_sidecar.machine.processes import interpreter

ISOLATED = [sys.executable, "-I", "-X", "utf8", "-B"]
POISONED = {"PATH": os.environ["PATH"], "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent"}


def said(program, *flags, env=None):
    words = [sys.executable, *flags, "-c", f"import json, os; {program}"]
    return json.loads(subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout)


def test_its_processes_are_told_what_it_was_told():
    program = (
        "from locara_sidecar.machine.processes import interpreter as i; print(json.dumps([i.module('m'), i.code('c')]))"
    )
    module, code = said(program, "-I", "-X", "utf8", "-B", env=POISONED)
    assert module[1:] == ["-I", "-X", "utf8", "-B", "-m", "m"]
    assert code[1:7] == ["-I", "-X", "utf8", "-B", "-c", "c"]
    assert "-X" not in said(program, "-I")[0]


def test_others_stay_as_they_were():
    assert interpreter.module("m", "x")[1:] == ["-m", "m", "x"]
    assert interpreter.code("c", "x")[1:5] == ["-P", "-c", "c", "x"]


def test_what_it_ignores_its_engine_does_not_get():
    imports = "from locara_sidecar.machine.processes.child_environment import of_engine"
    program = f"{imports}; print(json.dumps(of_engine(os.environ)))"
    assert not {name for name in said(program, "-I", env=POISONED) if name.startswith("PYTHON")}
    assert said(program, env={"PATH": POISONED["PATH"], "PYTHONUTF8": "1"})["PYTHONUTF8"] == "1"


@pytest.mark.parametrize("words", [["doctor", "--json"], ["models", "list", "--json"]], ids=str)
def test_a_command_works_where_a_host_has_a_python_of_its_own(words, tmp_path):
    done = subprocess.run(
        [*ISOLATED, "-m", "locara_sidecar", *words, "--cache-dir", str(tmp_path)],
        env=POISONED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.slow
def test_an_engine_draws_where_a_host_has_a_python_of_its_own(tmp_path):
    words = [*ISOLATED, "-m", "locara_sidecar", "demo", "x", "--engine", "fake", "--out", str(tmp_path)]
    done = subprocess.run(words, env=POISONED, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="locales of POSIX")
def test_names_are_utf_8_even_when_isolated(tmp_path):
    folder = tmp_path / "Bilder ü 图"
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "en_US.ISO-8859-1", "HOME": str(tmp_path)}
    program = "import sys; print(json.dumps(sys.getfilesystemencoding()))"
    assert said(program, "-I", "-X", "utf8", env=environment) == "utf-8"
    words = [sys.executable, "-I", "-m", "locara_sidecar", "demo", "x", "--engine", "fake", "--out", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("*.png"))
