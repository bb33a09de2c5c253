"""``locara-sidecar demo`` as a person uses it."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from PIL import Image

RUN = [sys.executable, "-m", "locara_sidecar"]


def test_demo_prints_the_path_of_a_picture_that_is_there(tmp_path):
    transcript = tmp_path / "lines"
    words = [
        "demo",
        "a quiet lake",
        "--engine",
        "fake",
        "--out",
        str(tmp_path / "out"),
        "--transcript",
        str(transcript),
    ]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "a quiet lake" in done.stdout
    assert "step 12/12" in done.stdout
    (file,) = (tmp_path / "out").iterdir()
    assert str(file) in done.stdout.splitlines()
    with Image.open(file) as picture:
        assert picture.size == (128, 128)
    lines = transcript.read_text().splitlines()
    assert all(json.loads(line.split(" ", 1)[1])["jsonrpc"] == "2.0" for line in lines)
    assert lines[0].startswith('send {"jsonrpc":"2.0","id":1,"method":"initialize"')


@pytest.mark.slow
def test_demo_draws_the_preview_in_the_terminal_and_redraws_it_in_place(tmp_path):
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80", "LINES": "40"}
    words = ["demo", "a quiet lake", "--engine", "fake", "--steps", "5", "--out", str(tmp_path)]
    with subprocess.Popen([*RUN, *words], stdout=terminal, stderr=terminal, stdin=terminal, env=environment) as demo:
        os.close(terminal)
        output = b""
        while True:
            try:
                output += os.read(main, 65536)
            except OSError:  # the last writer has closed it
                break
        assert demo.wait(20) == 0
    os.close(main)
    text = output.decode()
    while_drawing = text.partition("step 5/5")[0]  # later ones may already be the finished picture
    assert while_drawing.count("▀") > 4 * 100
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m▀", text)
    assert re.search(r"\x1b\[\d+A", text)


def test_demo_tells_a_mistake_in_one_sentence_and_ends_with_1(tmp_path):
    words = ["demo", "a lake", "--engine", "fake", "--steps", "999", "--out", str(tmp_path)]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("locara-sidecar: ")
    assert "Traceback" not in done.stderr


def test_doctor_tells_engines_memory_sandbox_folders_and_models():
    done = subprocess.run([*RUN, "doctor", "--json"], capture_output=True, text=True, timeout=30)
    found = json.loads(done.stdout)
    real = [engine for engine in found["engines"] if engine["name"] != "fake"]
    assert done.returncode == (0 if any(engine["available"] for engine in real) else 1)
    assert {"id": "pocket", "installed": True} in found["models"]
    assert found["sandbox"]["reason"]
    plain = subprocess.run([*RUN, "doctor"], capture_output=True, text=True, timeout=30)
    for word in ("machine", "memory", "engine", "sandbox", "cache", "models"):
        assert re.search(rf"^{word} ", plain.stdout, re.MULTILINE)
    assert all(engine["reason"] in plain.stdout for engine in found["engines"])
    assert len([engine for engine in real if "Chosen by auto" in engine["reason"]]) == any(
        engine["available"] for engine in real
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("sun.png", b"\x89PNG"), ("sun.JPG", b"\xff\xd8\xff"), ("sun.webp", b"RIFF")]
)
def test_a_file_that_is_named_becomes_that_file_and_no_folder(tmp_path, name, kind):
    words = ["demo", "a lake", "--engine", "fake", "--out", str(tmp_path / "new" / name)]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / name).read_bytes().startswith(kind)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


def test_a_file_of_another_type_is_refused_before_anything_starts(tmp_path):
    words = ["demo", "--engine", "fake", "--out", str(tmp_path / "sun.gif")]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=30)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "--out must be a folder, or a file that ends in one of .png" in done.stderr


@pytest.mark.parametrize("name", ["pictures 3.11", "2026.12.01"])
def test_a_new_folder_may_have_a_number_behind_a_dot(tmp_path, name):
    words = ["demo", "a lake", "--engine", "fake", "--out", str(tmp_path / name)]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert [file.suffix for file in (tmp_path / name).iterdir()] == [".png"]


def test_help_and_version_go_to_stdout():
    for flag in ("--help", "--version"):
        done = subprocess.run([*RUN, flag], capture_output=True, text=True, timeout=10)
        assert done.returncode == 0
        assert "locara-sidecar" in done.stdout
