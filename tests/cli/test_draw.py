"""``locara-sidecar draw`` and ``edit`` as a person uses them."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from locara_sidecar.cli.commands import drawing

SHIPPED = Path(drawing.__file__).parents[2] / "models" / "catalogue"
RUN = [sys.executable, "-m", "locara_sidecar"]


@pytest.fixture
def sidecar(tmp_path):
    """Run a command in its own folder; return (status, stdout, stderr)."""

    def run(*words, engine="fake", env=None):
        command = [*RUN, words[0], "--engine", engine, *words[1:]]
        environment = {**os.environ, "LOCARA_CACHE_DIR": str(tmp_path / "cache"), **(env or {})}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def metadata(path):
    with Image.open(path) as picture:
        return json.loads(picture.text["locara:parameters"])


def test_a_picture_lands_under_the_name_and_with_the_options_that_were_typed(sidecar, tmp_path):
    words = ("--size", "512x256", "--steps", "3", "--seed", "7", "--guidance", "2.5", "--model", "sd3.5-medium")
    status, told, errors = sidecar("draw", "a lake", *words, "--out", "new/lake.png")
    assert (status, errors) == (0, "")
    path = tmp_path / "new" / "lake.png"
    assert str(path) in told.splitlines()
    with Image.open(path) as picture:
        assert (picture.size, picture.format) == ((512, 256), "PNG")
    made = metadata(path)["options"]
    assert (made["model"], made["steps"], made["seed"], made["guidance"]) == ("sd3.5-medium", 3, 7, 2.5)
    assert "seed 7" in told


def test_what_is_there_already_is_never_overwritten(sidecar, tmp_path):
    (tmp_path / "lake.png").write_text("mine")
    status, told, _ = sidecar("draw", "a lake", "--steps", "1", "--size", "256x256", "--out", "lake.png")
    assert status == 0
    assert (tmp_path / "lake.png").read_text() == "mine"
    assert len(list(tmp_path.glob("lake*.png"))) == 2
    assert "lake" in told


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")])
def test_the_end_of_the_name_says_the_kind_of_file(sidecar, tmp_path, name, kind):
    assert sidecar("draw", "a lake", "--steps", "1", "--size", "256x256", "--out", name)[0] == 0
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind


def test_several_pictures_have_seeds_one_after_the_other_and_are_all_named(sidecar, tmp_path):
    status, told, _ = sidecar("draw", "a lake", "--steps", "2", "--size", "256x256", "--count", "3", "--seed", "5")
    assert status == 0
    files = sorted(tmp_path.glob("*.png"))
    assert [metadata(file)["options"]["seed"] for file in files] == [5, 6, 7]
    assert {str(file) for file in files} <= set(told.splitlines())
    assert "picture 2/3" in told
    assert "seeds 5 to 7" in told


def test_edit_changes_only_where_the_mask_is_white_and_leaves_the_picture_as_it_is(sidecar, tmp_path):
    picture, mask = Image.new("RGB", (256, 256), (10, 200, 30)), Image.new("L", (256, 256), 0)
    mask.paste(255, (128, 0, 256, 256))
    picture.save(tmp_path / "lawn.png")
    mask.save(tmp_path / "mask.png")
    before = (tmp_path / "lawn.png").read_bytes()
    common = ("--mask", "mask.png", "--strength", "0.9", "--steps", "4", "--seed", "1", "--model", "sd3.5-medium")
    status, _, errors = sidecar("edit", "lawn.png", "a lake", *common, "--out", "done.png")
    assert (status, errors) == (0, "")
    assert (tmp_path / "lawn.png").read_bytes() == before
    with Image.open(tmp_path / "done.png") as done:
        assert done.crop((0, 0, 128, 256)).getcolors() == [(128 * 256, (10, 200, 30))]
        assert done.crop((128, 0, 256, 256)).getcolors() != [(128 * 256, (10, 200, 30))]
    # the same with draw
    assert sidecar("draw", "a lake", "--image", "lawn.png", *common, "--out", "same.png")[0] == 0
    with Image.open(tmp_path / "done.png") as one, Image.open(tmp_path / "same.png") as other:
        assert one.tobytes() == other.tobytes()


def test_several_pictures_are_edited_in_the_order_that_was_typed(sidecar, tmp_path):
    entry = json.loads((SHIPPED / "flux.1-kontext-dev.json").read_text())
    entry |= {"id": "mine", "family": "flux2", "maxReferences": 3, "source": {}}
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(entry))
    for name, colour in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        Image.new("RGB", (256, 256), colour).save(tmp_path / name)
    common = ("--catalogue", "catalogue", "--steps", "2", "--seed", "1")
    status, _, errors = sidecar("edit", "red.png", "both", "--image", "blue.png", *common, "--out", "a.png")
    assert (status, errors) == (0, "")
    words = ("--image", "red.png", "--image", "blue.png")
    assert sidecar("draw", "both", *words, *common, "--out", "b.png")[0] == 0
    assert sidecar("draw", "both", *words[2:], *words[:2], *common, "--out", "c.png")[0] == 0
    first, second, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == second != other
    assert len(metadata(tmp_path / "a.png")["images"]) == 2
    (tmp_path / "bad.png").write_bytes(b"no picture")
    status, _, errors = sidecar("edit", "red.png", "both", "--image", "bad.png", *common, "--out", "d.png")
    assert status == 1
    assert "bad.png cannot be used" in errors
    assert "(--image)" in errors


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("draw", "x", "--mask", "m.png"), 2, "name the picture with --image"),
        (("draw", "x", "--strength", "0.5"), 2, "name the picture with --image"),
        (("draw", "x", "--image", "gone.png"), 2, "--image: there is no file"),
        (("edit", "bad.png", "x", "--image", "gone.png"), 2, "--image: there is no file"),
        (("draw", "x", *["--image", "bad.png"] * 11), 2, "more than 10 pictures"),
        (("edit", "bad.png", "x", "--image", "bad.png", "--model", "sd3.5-medium"), 1, "one picture in a call; 2 were"),
        (("draw", "x", "--out", "a.gif"), 2, "not a.gif"),
        (("draw", "x", "--catalogue", "gone"), 2, "gone"),
        (("draw", "x", "--steps", "999"), 1, "--steps"),
        (("draw", "x", "--seed", "-1"), 1, "--seed"),
        (("draw", "x", "--count", "17"), 1, "--count"),
        (("draw", "x", "--guidance", "-1"), 1, "--guidance"),
        (("draw", "x", "--model", "sd3.5-medium", "--size", "100x512"), 1, "steps of 16"),
        (("draw", "x", "--model", "nope"), 1, "no model nope"),
        (("draw", "  "), 1, "the prompt"),
        (("edit", "bad.png", "x", "--strength", "2", "--model", "sd3.5-medium"), 1, "--strength"),
        (("edit", "bad.png", "x", "--model", "sd3.5-medium"), 1, "--image"),
        (("edit", "bad.png", "x", "--model", "flux.1-kontext-dev", "--strength", "0.5"), 1, "--strength"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_that_names_the_flag(sidecar, tmp_path, words, status, sentence):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    got, told, errors = sidecar(*words)
    assert got == status, (told, errors)
    assert errors.startswith("locara-sidecar: ")
    assert sentence in errors
    assert "$." not in errors


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("draw", "caf\udce9"), "The prompt"),
        (("demo", "caf\udce9"), "The prompt"),
        (("draw", "x", "--negative", "caf\udce9"), "--negative"),
        (("draw", "x", "--scheduler", "caf\udce9"), "--scheduler"),
        (("draw", "x", "--model", "caf\udce9"), "--model"),
        (("demo", "x", "--model", "caf\udce9"), "--model"),
        (("draw", "x", "--out", "caf\udce9"), "--out"),
        (("draw", "x", "--out", "caf\udce9.png"), "--out"),
        (("demo", "x", "--out", "caf\udce9"), "--out"),
        (("edit", "caf\udce9.png", "x"), "--image"),
        (("draw", "x", "--image", "a.png", "--mask", "caf\udce9.png"), "--mask"),
    ],
)
def test_what_is_not_utf_8_is_a_usage_error_that_names_it(sidecar, tmp_path, words, what):
    (tmp_path / "caf\udce9.png").touch()
    (tmp_path / "a.png").touch()
    there = set(os.listdir(tmp_path))
    status, _, errors = sidecar(*words)
    assert (status, errors) == (2, f"locara-sidecar: {what} is not valid UTF-8; texts and names must be.\n")
    assert set(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("size", ["512", "512x", "x512", "0x-1", "512x512x3", "a×b", "٣x٣"])
def test_a_size_that_is_none_is_a_usage_error(sidecar, size):
    status, _, errors = sidecar("draw", "x", "--size", size)
    assert status == 2
    assert "expected width and height" in errors


@pytest.mark.slow
def test_the_model_is_the_first_that_is_installed(sidecar, tmp_path):
    """For an engine that needs model files, only the embedded model is installed here."""
    status, _, errors = sidecar("draw", "x", "--model", "flux.1-dev", engine="auto")
    assert status == 1
    assert "models download flux.1-dev" in errors
    status, told, _ = sidecar("draw", "a large red circle in the center of a blue background", engine="auto")
    assert status == 0
    assert " pocket on " in told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open")
def test_open_hands_the_picture_to_the_systems_viewer_or_says_that_there_is_none(sidecar, tmp_path):
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text('#!/bin/sh\necho "$1" > "$(dirname "$0")/shown"\n')
    viewer.chmod(0o755)
    common = ("draw", "x", "--steps", "1", "--size", "256x256", "--open", "--out", "a.png")
    assert sidecar(*common, env={"PATH": f"{viewer.parent}:{os.environ['PATH']}"})[0] == 0
    assert (viewer.parent / "shown").read_text().strip() == str(tmp_path / "a.png")
    viewer.write_text("#!/bin/sh\nexit 3\n")
    status, told, errors = sidecar(*common, env={"PATH": f"{viewer.parent}:{os.environ['PATH']}"})
    assert status == 1
    assert "status 3" in errors
    assert "a" in told


@pytest.mark.parametrize(("platform", "viewer"), [("darwin", "open"), ("linux", "xdg-open")])
def test_the_viewer_is_the_system_s_own(monkeypatch, platform, viewer):
    asked = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(drawing.subprocess, "run", lambda words, **_: asked.append(words))
    assert drawing._show(None, ["/pictures/a.png", "/pictures/b.png"]) == 0
    assert asked == [[viewer, "/pictures/a.png"], [viewer, "/pictures/b.png"]]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_ends_with_130_and_names_the_pictures_that_were_finished(tmp_path):
    words = ["draw", "fake:slow=400 a lake", "--engine", "fake", "--steps", "2", "--size", "256x256", "--count", "9"]
    with subprocess.Popen(
        [*RUN, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as drawing:
        for line in drawing.stdout:
            if "picture 3/9" in line:
                drawing.send_signal(signal.SIGINT)
                break
        told = drawing.stdout.read()
        errors = drawing.stderr.read()
        assert drawing.wait(20) == 130
    assert "cancelled" in errors
    assert "Traceback" not in errors
    finished = [str(file) for file in sorted(tmp_path.glob("*.png"))]
    assert finished
    assert set(finished) <= set(told.splitlines())


def _file(kind, size=(8, 4)):
    data = io.BytesIO()
    Image.new("RGB", size).save(data, kind)
    return data.getvalue()


@pytest.mark.slow
def test_a_picture_that_is_not_what_is_told_of_it_is_not_shown_and_stops_nothing():
    """What is shown comes from the engine, which an attacker may control."""
    said = {"mimeType": "image/webp", "width": 8, "height": 4}
    assert drawing._decode(_file("WEBP"), said).size == (8, 4)
    for data in (b"", b"RIFF\0\0\0\0WEBP", _file("WEBP")[:-20], _file("WEBP", (4000, 4000)), _file("PNG"), b"\0" * 99):
        assert drawing._decode(data, said) is None
    assert drawing._decode(_file("PNG"), {**said, "mimeType": "image/png"}).size == (8, 4)
    assert drawing._decode(_file("PNG", (8, 4))[:38], {**said, "mimeType": "image/png"}) is None
