"""image.edit with several pictures through the real daemon: their order, how many, from where, and what is refused.

The fake engine shows what it was given: a vertical band of each picture, side by side in their order.
"""

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from locara_sidecar.capability.files.picked import _SPARE
from locara_sidecar.daemon.images.source_images import MAX_EDIT_BYTES, MAX_SOURCE_BYTES
from locara_sidecar.engine.images import read_parameters
from support.edit_calls import KONTEXT, MEDIUM, begin, named, pixels, png, sent
from support.host import error_of, eventually, until

SHIPPED = Path(__file__).parents[2] / "sidecar/locara_sidecar/models/catalogue"
SEVERAL = "uses-several"
RED, GREEN, BLUE = (220, 0, 0), (0, 220, 0), (0, 0, 220)
INLINE = {"output": {"mode": "inline"}}


@pytest.fixture
def several(editor, tmp_path):
    """A session with a model that can use up to ten pictures, and some that use one."""

    def start(*flags, most=10, **session):
        entry = json.loads((SHIPPED / f"{KONTEXT}.json").read_text())
        entry |= {"id": SEVERAL, "order": 60, "family": "flux2", "maxReferences": most, "source": {}}
        entry["defaults"]["guidance"] = 1.0
        folder = tmp_path / "catalogue"
        folder.mkdir(exist_ok=True)
        (folder / "several.json").write_text(json.dumps(entry))
        session.setdefault("models", (MEDIUM, KONTEXT, SEVERAL))
        return editor("--catalogue", str(folder), *flags, **session)

    return start


def listed(host, images, **options):
    params = {"prompt": "all of them", "images": images, "options": {"model": SEVERAL, "steps": 2, "seed": 1} | options}
    return host.start("image.edit", params, stream=True)


def bands(image, count):
    """The dominant colour of each band, as the name of its strongest channel."""
    picture = pixels(image)
    width = picture.width // count
    strips = (picture.crop((at * width, 0, (at + 1) * width, picture.height)) for at in range(count))
    means = [ImageStat.Stat(strip).mean for strip in strips]
    return "".join("rgb"[mean.index(max(mean))] for mean in means)


def plain(colour, kind="PNG", size=(256, 256), **options):
    return png(size, colour, kind, **options)


def rotated():
    """A JPEG of 256 × 384 pixels once it is upright: red above green."""
    picture = Image.new("RGB", (256, 384), RED)
    picture.paste(GREEN, (0, 192, 256, 384))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


# --- what the model sees ----------------------------------------------------------------------


@pytest.mark.parametrize("order", ["rgb", "bgr", "grb", "rrb"])
def test_pictures_reach_the_engine_in_the_order_of_the_call_whatever_form_and_format_they_have(several, order):
    host = several(fs={"user-folder": "read-write", "user-selected": "read"})
    (host.folder / "red.png").write_bytes(plain(RED))
    (host.folder / "green.jpg").write_bytes(plain(GREEN, "JPEG", quality=95))
    handle = host.pick_file(host.folder / "green.jpg", "read")["handle"]
    forms = {
        "r": named("red.png"),
        "g": {"handle": handle},
        "b": sent(plain(BLUE, "WEBP", lossless=True), "image/webp"),
    }
    result = listed(host, [forms[one] for one in order]).result(30)
    assert bands(result["images"][0], 3) == order
    told = result["parameters"]["images"]
    shown = {"r": forms["r"], "g": forms["g"]}
    assert [shown.get(one, told[at]) for at, one in enumerate(order)] == told
    assert {one["mimeType"] for one in told if "sha256" in one} <= {"image/webp"}


def test_the_answer_makes_the_same_file_again_and_the_file_tells_the_hashes_in_order(several):
    host = several()
    files = {"a.png": plain(BLUE), "b.png": plain(RED)}
    for name, data in files.items():
        (host.folder / name).write_bytes(data)
    first = listed(host, [named(name) for name in files]).result(30)
    again = host.call("image.edit", first["parameters"], timeout=30)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert again["parameters"] == first["parameters"]
    about = read_parameters(Path(first["images"][0]["path"]).read_bytes())
    assert about["images"] == [{"sha256": hashlib.sha256(data).hexdigest()} for data in files.values()]
    assert "image" not in about
    assert not any(name in json.dumps(about) for name in files)


def test_a_turned_photo_is_upright_wherever_it_is_in_the_list(several):
    host = several()
    photo, other = sent(rotated(), "image/jpeg"), sent(plain(BLUE))
    first = listed(host, [photo, other], **INLINE).result(30)["images"][0]
    assert (first["width"], first["height"]) == (256, 384)
    second = listed(host, [other, photo], width=512, height=512, **INLINE).result(30)["images"][0]
    right = pixels(second).crop((256, 0, 512, 512))
    above, below = (ImageStat.Stat(right.crop(box)).mean for box in ((0, 0, 256, 200), (0, 312, 256, 512)))
    assert above.index(max(above)) == 0
    assert below.index(max(below)) == 1


def test_the_first_picture_gives_the_size_and_the_others_may_have_any(several):
    host = several()
    shapes = [
        sent(plain(colour, size=size)) for colour, size in ((RED, (320, 256)), (GREEN, (97, 601)), (BLUE, (64, 64)))
    ]
    image = listed(host, shapes, **INLINE).result(30)["images"][0]
    assert (image["width"], image["height"], bands(image, 3)) == (320, 256, "rgb")
    error = error_of(listed(host, shapes[::-1], **INLINE))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.width")


def test_ten_pictures_are_used_and_eleven_are_refused(several):
    host = several()
    ten = [sent(plain((RED, GREEN, BLUE)[at % 3], size=(320, 320))) for at in range(10)]
    assert bands(listed(host, ten, **INLINE).result(40)["images"][0], 10) == "rgbrgbrgbr"
    error = error_of(listed(host, [*ten, ten[0]], **INLINE))
    assert (error.kind, error.data["path"], "1 to 10" in error.message) == ("InvalidParams", "$.images", True)


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MEDIUM, KONTEXT])
def test_a_model_that_takes_one_says_so_and_takes_a_list_of_one_as_the_picture_itself(kept_editor, model):
    host = kept_editor
    options = {"model": model, "steps": 2, "seed": 4}
    error = error_of(listed(host, [named("in.png")] * 2, **options))
    assert (error.kind, error.data["path"], error.data["maxReferences"]) == ("InvalidParams", "$.images", 1)
    assert error.message == f"{model} edits one picture in a call; 2 were given."
    alone = begin(host, "all of them", **options).result(30)
    list_of_one = listed(host, [named("in.png")], **options).result(30)
    assert list_of_one["images"][0]["sha256"] == alone["images"][0]["sha256"]
    assert (alone["parameters"]["image"], list_of_one["parameters"]["images"]) == (named("in.png"), [named("in.png")])


def test_the_catalogue_says_how_many_and_without_a_model_one_that_takes_so_many_is_used(several):
    host = several(most=2)
    told = {model["id"]: model["maxReferences"] for model in host.call("models.list")["models"]}
    assert told == {MEDIUM: 1, KONTEXT: 1, SEVERAL: 2}
    pictures = [sent(plain(RED)), sent(plain(BLUE))]
    for images, model in ((pictures[:1], MEDIUM), (pictures, SEVERAL)):
        call = host.start("image.edit", {"prompt": "a", "images": images, "options": INLINE})
        assert call.result(30)["model"]["id"] == model
    error = error_of(listed(host, [*pictures, pictures[0]]))
    assert error.message == f"{SEVERAL} edits at most 2 pictures in a call; 3 were given."


def test_two_pictures_without_a_model_need_one_that_the_manifest_declares(several):
    host = several(models=(MEDIUM,))
    error = error_of(host.start("image.edit", {"prompt": "a", "images": [named("in.png")] * 2}))
    assert (error.kind, error.data["declare"]["capabilities"]["models"]) == ("CapabilityDenied", [SEVERAL])


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "$.image"),
        ({"image": None}, "$.image"),
        ({"image": None, "images": None}, "$.image"),
        ({"image": named("in.png"), "images": [named("in.png")]}, "$.images"),
        ({"images": []}, "$.images"),
        ({"images": named("in.png")}, "$.images"),
        ({"images": [named("in.png"), None]}, "$.images[1]"),
        ({"images": [named("in.png"), "b.png"]}, "$.images[1]"),
        ({"images": [named("in.png"), {"rot": "user-folder"}]}, "$.images[1].rot"),
        ({"images": [named("in.png"), {"root": "user-folder", "path": 3}]}, "$.images[1].path"),
        ({"images": [named("in.png"), {"root": "user-folder"}]}, "$.images[1].path"),
        ({"images": [named("in.png"), {}]}, "$.images[1]"),
        ({"images": [named("in.png"), named("in.png") | {"handle": "x"}]}, "$.images[1]"),
        ({"images": [{"data": "=", "mimeType": "image/png"}]}, "$.images[0].data"),
        ({"images": [named("../in.png")]}, "$.images[0].path"),
        ({"images": [named("in.png", "home")]}, "$.images[0].root"),
        ({"images": [{"handle": "nobody"}]}, "$.images[0].handle"),
    ],
)
def test_what_is_wrong_is_named_by_its_place_in_the_list(several, params, path):
    host = several(fs={"user-folder": "read-write", "user-selected": "read"})
    error = error_of(host.start("image.edit", {"prompt": "a", "options": {"model": SEVERAL}} | params))
    assert (error.kind, error.data["path"]) == ("InvalidParams", path)


# --- the gate, and what is read -----------------------------------------------------------------


def test_one_picture_that_may_not_be_read_refuses_the_call_before_anything_is_opened(several, tmp_path):
    host = several(fs={"user-folder": "read-write", "user-paths": {"mine": "read"}})
    pipe = host.folder / "pipe.png"
    os.mkfifo(pipe)  # opening it would be StorageError, waiting for it forever
    for root, reason in (("app-data", "notDeclared"), ("user-paths.mine", "noHostGrant")):
        error = error_of(listed(host, [named("pipe.png"), named("in.png"), named("a.png", root)]))
        assert (error.kind, error.data["reason"]) == ("CapabilityDenied", reason)
        assert (error.data["resource"], error.data["path"]) == (root, "$.images[2].root")
    denied = host.call("audit.capabilityLog", {})["entries"][-1]
    assert (denied["decision"], denied["resource"]) == ("deny", "user-paths.mine")


def test_each_picture_is_read_below_its_own_root(several, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "in.png").write_bytes(plain(BLUE))
    (other / "link.png").symlink_to(other / "in.png")
    host = several(
        fs={"user-folder": "read-write", "user-paths": {"mine": "read"}},
        grants={"user-paths.mine": str(other), "user-folder": str(tmp_path)},
    )
    (tmp_path / "in.png").write_bytes(plain(RED))
    images = [named("in.png"), named("in.png", "user-paths.mine"), named("in.png")]
    assert bands(listed(host, images, **INLINE).result(30)["images"][0], 3) == "rbr"
    error = error_of(listed(host, [*images, named("link.png", "user-paths.mine")]))
    assert (error.kind, error.data["errno"], error.data["path"]) == ("StorageError", "ELOOP", "$.images[3].path")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_picture_that_is_none_is_refused_by_its_place(several, place):
    host = several()
    (host.folder / "bad.png").write_bytes(plain(RED)[:200])
    for bad in (sent(b"no picture"), sent(plain(RED)[:200]), named("bad.png"), sent(plain(RED), "image/webp")):
        images = [sent(plain(GREEN))] * 3
        images[place] = bad
        error = error_of(listed(host, images, **INLINE))
        assert (error.kind, error.data["path"]) == ("InvalidImage", f"$.images[{place}]")
        assert error.message.startswith(f"images[{place}] cannot be used: ")
    assert listed(host, [sent(plain(GREEN))] * 2, **INLINE).result(30)["images"]


def test_all_files_of_a_call_together_have_a_limit(several):
    host = several()
    size = MAX_SOURCE_BYTES * 3 // 4
    for name in ("a.png", "b.png", "c.png"):
        with (host.folder / name).open("wb") as file:
            file.write(plain(RED))
            file.truncate(size)
    assert 2 * size < MAX_EDIT_BYTES < 3 * size
    error = error_of(listed(host, [named(name) for name in ("a.png", "b.png", "c.png")]))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.images[2]")
    assert str(MAX_EDIT_BYTES) in error.message


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process is set as on Linux")
def test_a_queue_with_many_files_leaves_the_daemon_some_descriptors(several):
    import resource

    host = several()
    slow = begin(host, "fake:slow=20000 first", steps=2)
    until(slow, "denoising")
    in_use = len(os.listdir(f"/proc/{host.process.pid}/fd"))
    limit = in_use + _SPARE + 25  # room for the files of two calls
    resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    calls = []
    for count in (11, 21):  # one is the first call's
        # in turn: files are opened in threads, and of calls sent at once any may find no room
        calls.append(listed(host, [named("in.png")] * 10, **INLINE))
        assert eventually(lambda count=count: len(host.open_files()) == count)
    error = error_of(listed(host, [named("in.png")] * 10, **INLINE), 5)
    assert (error.kind, error.data["errno"]) == ("StorageError", "EMFILE")
    assert error.data["path"].startswith("$.images[")
    assert host.call("ping")
    slow.cancel()
    assert [len(call.result(30)["images"]) for call in calls] == [1, 1]


def test_a_waiting_job_is_listed_and_attached_to_and_reads_the_files_that_were_named_when_it_came(several):
    host = several()
    for name, colour in (("a.png", RED), ("b.png", BLUE)):
        (host.folder / name).write_bytes(plain(colour))
    slow = begin(host, "fake:slow=20000 first", steps=2)
    until(slow, "denoising")
    call = listed(host, [named("a.png"), named("b.png")], **INLINE)
    until(call, "queued")
    # its turn has not come, yet a file that is not there is told at once
    error = error_of(listed(host, [named("a.png"), named("none.png")]), 5)
    assert (error.data["errno"], error.data["path"]) == ("ENOENT", "$.images[1].path")
    for name in ("a.png", "b.png"):
        (host.folder / "new.png").write_bytes(plain(GREEN))
        (host.folder / "new.png").rename(host.folder / name)
    waiting = host.call("jobs.list")["jobs"][1]
    assert (waiting["state"], waiting["model"]) == ("queued", SEVERAL)
    stream = host.attach(waiting["jobId"], timeout=5)
    slow.cancel()
    assert bands(call.result(30)["images"][0], 2) == "rb"
    assert list(stream.messages())[-1]["progress"] == 1
    told = host.call("jobs.result", {"jobId": waiting["jobId"]})
    assert told["parameters"]["images"] == [named("a.png"), named("b.png")]


def test_a_picked_file_may_be_named_twice_and_released_while_it_waits(several):
    host = several(fs={"user-folder": "read-write", "user-selected": "read"})
    (host.folder / "a.png").write_bytes(plain(RED))
    handle = host.pick_file(host.folder / "a.png", "read")["handle"]
    slow = begin(host, "fake:slow=20000 first", steps=2)
    until(slow, "denoising")
    call = listed(host, [{"handle": handle}, sent(plain(BLUE)), {"handle": handle}], **INLINE)
    until(call, "queued")
    host.call("host.releaseFile", {"handle": handle})
    slow.cancel()
    assert bands(call.result(30)["images"][0], 3) == "rbr"
    error = error_of(listed(host, [sent(plain(BLUE)), {"handle": handle}], **INLINE))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.images[1].handle")
