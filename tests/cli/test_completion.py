"""Real shells complete our command line."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from support.model_store import entry_data
from support.played_terminal import PlayedTerminal

RUN = [sys.executable, "-m", "locara_sidecar"]
ASK_BASH = """
source "$1"; shift
words=("$@"); function=$(complete -p locara-sidecar | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE="${words[*]}"; COMP_POINT=${#COMP_LINE}
$function locara-sidecar "${words[-1]}" "${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES = [
    ("mod", ["models"]),
    ("models ver", ["verify"]),
    ("models get pock", ["pocket"]),
    ("draw x --engine tor", ["torch"]),
    ("draw x --model sdxl", ["sdxl-lightning"]),
    ("demo --previ", ["--preview"]),
    ("demo --preview six", ["sixel"]),
    ("edit picture", ["picture.png"]),
    ("serve --catalogue fol", ["folder"]),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The scripts of the three shells, in a folder with a picture and a subfolder to complete."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "picture.png").touch()
    (folder / "folder").mkdir()
    for shell, name in (("bash", "bash"), ("zsh", "_locara-sidecar"), ("fish", "fish")):
        done = subprocess.run([*RUN, "completion", shell], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        (folder / name).write_text(done.stdout)
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_bash(scripts, typed, offered):
    words = ["bash", "-c", ASK_BASH, "bash", "./bash", "locara-sidecar", *shlex.split(typed)]
    done = subprocess.run(words, cwd=scripts, capture_output=True, text=True, timeout=30)
    assert (done.stdout.split(), done.stderr) == (offered, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_fish(scripts, typed, offered):
    words = ["fish", "-N", "-c", f"source fish; complete -C {shlex.quote('locara-sidecar ' + typed)}"]
    done = subprocess.run(words, cwd=scripts, capture_output=True, text=True, timeout=30)
    assert [line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()] == offered


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh")
def test_zsh(scripts):
    terminal = PlayedTerminal(["zsh", "-f", "-i"], {"PS1": "% ", "TERM": "xterm", "HOME": str(scripts)}, size=(200, 40))
    try:
        terminal.type(f"cd {shlex.quote(str(scripts))}; fpath=($PWD $fpath)\r".encode())
        terminal.type(b"autoload -Uz compinit; compinit -u -D; echo rea''dy\r")
        terminal.until(b"ready")
        for typed, (offered,) in CASES:
            if offered.startswith("--"):
                continue  # it is listed with its help, because other words begin the same way
            before = len(terminal.shown)
            terminal.type(f"\x15locara-sidecar {typed}\t".encode())
            whole = f"locara-sidecar {typed.rpartition(' ')[0]} {offered}".replace("  ", " ")
            terminal.until(whole.encode())
            assert whole.encode() in terminal.shown[before:]
    finally:
        terminal.close()


def test_the_users_own_models_are_offered_too(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(entry_data()))
    words = [*RUN, "completion", "bash", "--catalogue", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert " mine" in done.stdout or "(mine" in done.stdout


def test_how_to_switch_it_on_is_in_its_help():
    done = subprocess.run([*RUN, "completion", "--help"], capture_output=True, text=True, timeout=30)
    for shell in ("bash", "zsh", "fish"):
        assert f"locara-sidecar completion {shell} > ~/" in done.stdout


def test_a_catalogue_that_is_not_there_is_told_in_a_sentence(tmp_path):
    words = [*RUN, "completion", "bash", "--catalogue", str(tmp_path / "gone")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"locara-sidecar: {tmp_path / 'gone'} is not a folder\n"
