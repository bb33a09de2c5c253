"""image.edit through the real daemon with the fake engine: what a host sends, sees and finds on disk."""

import hashlib
import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from locara_sidecar.engine.images import read_parameters
from support.edit_calls import KONTEXT, MEDIUM, RED, begin, edit, mask, named, pixels, png, sent
from support.host import decoded, error_of, eventually, until
from support.image_files import icc_profile, segment, with_segments

# --- what an edit makes ----------------------------------------------------------------------


def test_a_picture_is_changed_where_the_mask_is_white_and_nowhere_else(kept_editor):
    host = kept_editor
    (image,) = edit(host, mask=named("mask.png"), steps=4, seed=3)["images"]
    assert Path(image["path"]).parent == host.folder
    changed = pixels(image)
    assert changed.size == (256, 256)
    inside = changed.crop((64, 64, 192, 192))
    assert inside.getcolors() is None or {colour for _, colour in inside.getcolors()} != {RED}
    changed.paste(RED, (64, 64, 192, 192))
    assert changed.getcolors() == [(256 * 256, RED)]


def test_the_answer_repeats_every_option_and_makes_the_same_file_again(kept_editor):
    host = kept_editor
    first = edit(host, mask=named("mask.png"), steps=2, strength=0.5)
    parameters = first["parameters"]
    assert (parameters["image"], parameters["mask"]) == (named("in.png"), named("mask.png"))
    options = parameters["options"]
    assert (options["strength"], options["width"], options["height"], options["model"]) == (0.5, 256, 256, MEDIUM)
    again = host.call("image.edit", parameters, timeout=30)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert again["parameters"] == parameters
    assert edit(host, steps=2)["parameters"]["options"]["strength"] == 0.6


@pytest.mark.slow
def test_an_edit_from_and_to_the_wire_needs_no_folder(editor):
    host = editor(fs={"app-data": "write"}, grants={})
    data, stencil = png(), mask()
    inline = {"mode": "inline"}
    result = edit(host, image=sent(data), mask=sent(stencil), steps=2, seed=9, output=inline)
    assert host.files() == ["in.png", "mask.png"]
    digests = [hashlib.sha256(each).hexdigest() for each in (data, stencil)]
    assert result["parameters"]["image"] == {"sha256": digests[0], "mimeType": "image/png"}
    assert result["parameters"]["mask"] == {"sha256": digests[1], "mimeType": "image/png"}
    put_back = result["parameters"] | {"image": sent(data), "mask": sent(stencil)}
    again = host.call("image.edit", put_back, timeout=30)
    assert decoded(again["images"][0]) == decoded(result["images"][0])


def test_the_files_metadata_has_the_hashes_of_what_was_edited_and_nothing_private(kept_editor):
    host = kept_editor
    by_name = decoded(edit(host, mask=named("mask.png"), seed=5, steps=2)["images"][0])
    by_wire = decoded(edit(host, image=sent(png()), mask=sent(mask()), seed=5, steps=2)["images"][0])
    assert by_name == by_wire
    found = read_parameters(by_name)
    assert found["image"] == {"sha256": hashlib.sha256(png()).hexdigest()}
    assert found["mask"] == {"sha256": hashlib.sha256(mask()).hexdigest()}
    assert (found["options"]["strength"], found["options"]["width"]) == (0.6, 256)
    assert b"in.png" not in by_name
    assert "mask" not in read_parameters(decoded(edit(host, seed=5, steps=2)["images"][0]))


def test_nothing_of_the_sources_file_but_its_colours_gets_into_the_result(kept_editor):
    host = kept_editor
    exif = Image.Exif()
    exif[0x010E] = "secret"
    exif[0x8825] = {1: "N", 2: (47.0, 1.0, 2.0)}
    beside = {"exif": exif, "xmp": b"<x>secret</x>", "icc_profile": icc_profile()}
    photo = with_segments(
        png(colour=(200, 100, 50), kind="JPEG", comment=b"secret", quality=100, subsampling=0, **beside),
        segment(0xED, b"Photoshop 3.0\0secret"),
    )
    files = {
        "photo.jpg": photo,
        "photo.webp": png(colour=(200, 100, 50), kind="WEBP", lossless=True, **beside),
        "photo.png": png(colour=(200, 100, 50), **beside, dpi=(300, 300)),
    }
    seen = {}
    for name, data in files.items():
        (host.folder / name).write_bytes(data)
        for mime in ("image/png", "image/jpeg", "image/webp"):
            for image_mask in (None, sent(mask(box=(0, 0, 8, 8)))):
                output = {"mode": "inline", "mimeType": mime, "metadata": "none", "quality": 100}
                result = edit(host, image=named(name), mask=image_mask, steps=1, strength=0.001, output=output)
                made = decoded(result["images"][0])
                assert result["warnings"] == []
                assert b"secret" not in made
                with Image.open(io.BytesIO(made)) as opened:
                    assert opened.info.keys().isdisjoint({"comment", "icc_profile", "exif", "xmp", "photoshop"})
                    assert not opened.getexif()
                seen[name, mime, image_mask is None] = pixels(result["images"][0]).getpixel((200, 200))
    for found in seen.values():  # Display P3's (200, 100, 50) in sRGB
        assert max(abs(a - b) for a, b in zip(found, (215, 93, 31), strict=True)) <= 4


def test_a_profile_that_is_no_use_is_told(kept_editor):
    host = kept_editor
    (warning,) = edit(host, image=sent(png(icc_profile=b"no profile")), steps=1)["warnings"]
    assert warning["kind"] == "ColourProfileIgnored"


def test_the_channel_tells_each_phase_and_the_steps_that_really_run(editor):
    host = editor()
    call = begin(host, steps=8, strength=0.5)
    messages = list(call.messages())
    call.result(10)
    phases = list(dict.fromkeys(message["phase"] for message in messages))
    assert phases == ["queued", "loading", "encoding", "denoising", "decoding", "saving"]
    assert {message["steps"] for message in messages} == {4}
    steps = [message for message in messages if message["phase"] == "denoising" and message["step"]]
    assert [message["step"] for message in steps] == [1, 2, 3, 4]
    assert all("preview" in message for message in steps)
    progress = [message["progress"] for message in messages]
    assert progress == sorted(progress)


def test_more_strength_changes_more_and_takes_more_steps(kept_editor):
    host = kept_editor
    found = []
    for strength in (0.1, 0.5, 1):
        call = begin(host, steps=10, strength=strength, seed=1)
        steps = [message for message in call.messages() if message["phase"] == "denoising" and message["step"]]
        histogram = pixels(call.result(10)["images"][0]).convert("L").histogram()
        found.append((len(steps), -max(histogram)))
    assert [steps for steps, _ in found] == [1, 5, 10]
    assert found == sorted(found)


def test_the_steps_are_told_from_the_start_as_the_models_family_counts_them(editor):
    host = editor(models=("flux.1-schnell", "sdxl-lightning"))
    for model, steps in (("flux.1-schnell", 3), ("sdxl-lightning", 2)):
        call = begin(host, model=model, steps=4, strength=0.6, width=512, height=512)
        assert {message["steps"] for message in call.messages()} == {steps}
        call.result(10)


def test_several_images_start_from_the_same_picture_with_seeds_of_their_own(kept_editor):
    host = kept_editor
    call = begin(host, mask=named("mask.png"), count=3, seed=20, steps=2, output={"path": "out.png"})
    assert {message["image"] for message in call.messages()} == {1, 2, 3}
    result = call.result(20)
    assert [image["relativePath"] for image in result["images"]] == ["out-1.png", "out-2.png", "out-3.png"]
    assert [image["seed"] for image in result["images"]] == [20, 21, 22]
    assert len({image["sha256"] for image in result["images"]}) == 3
    assert edit(host, mask=named("mask.png"), seed=22, steps=2)["images"][0]["sha256"] == result["images"][2]["sha256"]


def test_the_size_is_the_sources_unless_another_is_named(kept_editor):
    host = kept_editor
    (host.folder / "wide.jpg").write_bytes(png((512, 256), kind="JPEG"))
    (host.folder / "odd.webp").write_bytes(png((500, 300), kind="WEBP"))
    image = edit(host, image=named("wide.jpg"), steps=1)["images"][0]
    assert (image["width"], image["height"]) == pixels(image).size == (512, 256)
    image = edit(host, image=named("wide.jpg"), steps=1, width=256, height=320)["images"][0]
    assert (image["width"], image["height"]) == pixels(image).size == (256, 320)
    assert edit(host, image=named("wide.jpg"), steps=1, height=320)["images"][0]["width"] == 512
    error = error_of(begin(host, image=named("odd.webp")))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.width")
    nearest = {name: error.data[name] for name in ("width", "height")}
    assert edit(host, image=named("odd.webp"), steps=1, **nearest)["images"]
    assert error_of(begin(host, width=250)).data["nearest"] == 256


@pytest.mark.slow
def test_an_inline_answer_that_has_no_room_for_the_sources_size_is_refused(editor):
    host = editor()
    (host.folder / "large.png").write_bytes(png((1536, 1536)))
    inline = {"mode": "inline"}
    error = error_of(begin(host, image=named("large.png"), output=inline, steps=1))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.width")
    assert error.data["width"] * error.data["height"] * 4 <= 7 * 1024 * 1024
    nearest = {name: error.data[name] for name in ("width", "height")}
    assert edit(host, image=named("large.png"), output=inline, steps=1, **nearest)["images"]
    error = error_of(begin(host, output=inline, count=16, width=512, height=512))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.output.mode")
    assert edit(host, image=named("large.png"), steps=1)["images"][0]["width"] == 1536


# --- which model -----------------------------------------------------------------------------


def test_a_model_that_follows_instructions_has_no_strength_and_no_mask(kept_editor):
    host = kept_editor
    for options, image_mask, path in (
        ({"strength": 0.5}, None, "$.options.strength"),
        ({}, named("mask.png"), "$.mask"),
    ):
        error = error_of(begin(host, mask=image_mask, model=KONTEXT, **options))
        assert (error.kind, error.data["path"]) == ("InvalidParams", path)
        assert KONTEXT in error.message
    call = begin(host, model=KONTEXT, steps=3)
    assert {message["steps"] for message in call.messages()} == {3}
    assert "strength" not in call.result(10)["parameters"]["options"]


@pytest.mark.slow
def test_the_default_is_the_first_granted_model_that_can_edit(hosts, editor, tmp_path):
    assert edit(editor(), steps=1)["model"]["id"] == MEDIUM
    assert edit(editor(modalities=["image-text-to-image"]), steps=1)["model"]["id"] == KONTEXT
    entry = (Path(__file__).parents[2] / "sidecar/locara_sidecar/models/catalogue/sd3.5-medium.json").read_text()
    (tmp_path / "catalogue").mkdir()
    drawing = entry.replace(', "image-to-image"', "").replace('"id": "sd3.5-medium"', '"id": "draws-only"')
    (tmp_path / "catalogue/draws.json").write_text(drawing.replace('"order": 10', '"order": 1'))
    host = editor("--catalogue", str(tmp_path / "catalogue"), models=("draws-only", KONTEXT))
    assert edit(host, steps=1)["model"]["id"] == KONTEXT
    assert host.call("image.generate", {"prompt": "a", "options": {"steps": 1}}, timeout=20)["model"]["id"] == (
        "draws-only"
    )
    error = error_of(begin(host, model="draws-only"))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.model")
    assert error_of(begin(editor(models=("dream-9",)), model="dream-9")).kind == "ModelNotFound"


# --- cancelling ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="counts the process's descriptors")
@pytest.mark.parametrize("phase", ["queued", "loading", "encoding", "denoising", "decoding"])
def test_a_cancel_in_each_phase_is_answered_and_gives_the_files_back(editor, phase):
    slow = {} if phase == "queued" else {f"LOCARA_FAKE_{NAMES[phase]}_MS": "20000"}
    host = editor(env={**os.environ, **slow})

    first = None
    if phase == "queued":
        first = begin(host, "fake:slow=20000 first", image=sent(png()), output={"mode": "inline"}, steps=2)
        until(first, "denoising")
    call = begin(host, mask=named("mask.png"), steps=2)
    until(call, phase)
    given = {str(host.folder / name) for name in ("in.png", "mask.png")}
    assert eventually(lambda: set(host.open_files()) == given)
    call.cancel()
    error = error_of(call, 5)
    assert (error.code, error.data["images"]) == (-32800, [])
    if first is not None:
        first.cancel()
        error_of(first, 5)
    if phase == "queued":  # such a cancel is answered first
        assert eventually(lambda: host.open_files() == [])
    assert host.open_files() == []
    assert host.files() == ["in.png", "mask.png"]


@pytest.mark.slow
def test_pictures_that_are_sent_with_waiting_jobs_are_bounded_by_their_bytes(editor):
    """Fewer jobs than may wait. A cancel still gets through, and a job with a file from the folder takes no memory."""
    host = editor()
    first = begin(host, "fake:slow=60000 first", steps=2)
    until(first, "denoising")
    large = sent(png() + bytes(11 << 20))
    waiting = [begin(host, image=large) for _ in range(5)]
    refused = error_of(begin(host, image=large), 30)
    assert (refused.kind, refused.retryable) == ("QueueFull", True)
    assert "bytes of pictures are held" in refused.message
    waiting.append(begin(host, image=named("in.png"), steps=2))
    until(waiting[-1], "queued")
    waiting[0].cancel()
    assert error_of(waiting[0], 30).code == -32800
    waiting.append(begin(host, image=large))  # now there is room for it
    until(waiting[-1], "queued")
    for call in (*waiting[1:], first):
        call.cancel()
        assert error_of(call, 30).code == -32800


NAMES = {"loading": "LOAD", "encoding": "ENCODE", "denoising": "STEP", "decoding": "DECODE"}


@pytest.mark.slow
def test_what_was_finished_before_a_cancel_is_told(editor):
    host = editor()
    call = begin(host, "fake:slow=40 a lake", steps=5, count=8)
    for message in call.messages():
        if message["image"] == 3:
            break
    call.cancel()
    images = error_of(call, 5).data["images"]
    assert 1 <= len(images) < 8
    assert sorted(host.files()) == sorted(["in.png", "mask.png", *(image["relativePath"] for image in images)])


# --- long lines ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_image_fits_a_line_and_one_that_does_not_is_refused_and_the_next_served(editor):
    host = editor()
    noise = Image.frombytes("RGB", (1536, 1536), os.urandom(1536 * 1536 * 3))
    out = io.BytesIO()
    noise.save(out, "PNG")
    result = edit(host, image=sent(out.getvalue()), steps=1, strength=0.1)
    assert result["parameters"]["image"]["sha256"] == hashlib.sha256(out.getvalue()).hexdigest()
    host.send_raw(
        b'{"jsonrpc":"2.0","id":77,"method":"image.edit","params":{"prompt":"a","image":{"data":"' + b"A" * (17 << 20)
    )
    refusal = host.next_unmatched(20)
    assert (refusal["error"]["code"], refusal["id"]) == (-32600, None)
    assert refusal["error"]["data"]["maxLineBytes"] == 16 << 20
    assert edit(host, steps=1)["images"]
