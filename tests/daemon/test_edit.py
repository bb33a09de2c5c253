"""image.edit through the real daemon with the fake engine: what a host sends, sees, and finds on disk."""

import base64
import hashlib
import io
import os
import sys
import time
from pathlib import Path

import anyio
import psutil
import pytest
from PIL import Image

from capability.helpers import manifest as bare_manifest
from locara_protocol.errors import RpcError
from locara_protocol.image_messages import EditParams, ImageInput
from locara_sidecar.daemon.source_images import SourceImages, check_forms
from locara_sidecar.engine.images import read_parameters
from support.host import decoded, error_of, manifest, until

MEDIUM, KONTEXT = "sd3.5-medium", "flux.1-kontext-dev"
MODALITIES = ("text-to-image", "image-to-image", "image-text-to-image")
RED = (200, 30, 40)


def png(size=(256, 256), colour=RED, kind="PNG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **options)
    return out.getvalue()


def mask(size=(256, 256), box=(64, 64, 192, 192)):
    """White within the box, which is repainted."""
    picture = Image.new("L", size, 0)
    picture.paste(255, box)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def sent(data, kind="image/png"):
    return {"data": base64.b64encode(data).decode(), "mimeType": kind}


def named(path, root="user-folder"):
    return {"root": root, "path": path}


def pixels(image):
    with Image.open(io.BytesIO(decoded(image))) as picture:
        return picture.convert("RGB")


@pytest.fixture
def editor(hosts):
    """A session that may edit with some models, in a folder that holds ``in.png`` and ``mask.png``."""

    def start(*flags, models=(MEDIUM, KONTEXT), modalities=MODALITIES, fs=None, grants=None, env=None):
        host = hosts.spawn(*flags, env=env)
        (host.folder / "in.png").write_bytes(png())
        (host.folder / "mask.png").write_bytes(mask())
        app = manifest(*models, modalities=modalities, fs=fs)
        host.initialize(manifest=app, grants={"user-folder": str(host.folder)} if grants is None else grants)
        return host

    return start


def begin(host, prompt="a lake", image=None, mask=None, **options):
    params = {"prompt": prompt, "image": image or named("in.png"), "options": options}
    if mask is not None:
        params["mask"] = mask
    return host.start("image.edit", params, stream=True)


def edit(host, *arguments, **more):
    return begin(host, *arguments, **more).result(30)


# --- what an edit makes ----------------------------------------------------------------------


def test_a_picture_is_changed_where_the_mask_is_white_and_nowhere_else(editor):
    host = editor()
    (image,) = edit(host, mask=named("mask.png"), steps=4, seed=3)["images"]
    assert Path(image["path"]).parent == host.folder
    changed = pixels(image)
    assert changed.size == (256, 256)
    inside = changed.crop((64, 64, 192, 192))
    assert inside.getcolors() is None or {colour for _, colour in inside.getcolors()} != {RED}
    changed.paste(RED, (64, 64, 192, 192))
    assert changed.getcolors() == [(256 * 256, RED)]


def test_the_answer_repeats_every_option_and_makes_the_same_file_again(editor):
    host = editor()
    first = edit(host, mask=named("mask.png"), steps=2, strength=0.5)
    parameters = first["parameters"]
    assert (parameters["image"], parameters["mask"]) == (named("in.png"), named("mask.png"))
    options = parameters["options"]
    assert (options["strength"], options["width"], options["height"], options["model"]) == (0.5, 256, 256, MEDIUM)
    again = host.call("image.edit", parameters, timeout=30)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert again["parameters"] == parameters
    assert edit(host, steps=2)["parameters"]["options"]["strength"] == 0.6


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


def test_the_files_metadata_has_the_hashes_of_what_was_edited_and_nothing_private(editor):
    host = editor()
    by_name = decoded(edit(host, mask=named("mask.png"), seed=5, steps=2)["images"][0])
    by_wire = decoded(edit(host, image=sent(png()), mask=sent(mask()), seed=5, steps=2)["images"][0])
    assert by_name == by_wire
    found = read_parameters(by_name)
    assert found["image"] == {"sha256": hashlib.sha256(png()).hexdigest()}
    assert found["mask"] == {"sha256": hashlib.sha256(mask()).hexdigest()}
    assert (found["options"]["strength"], found["options"]["width"]) == (0.6, 256)
    assert b"in.png" not in by_name
    assert "mask" not in read_parameters(decoded(edit(host, seed=5, steps=2)["images"][0]))


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


def test_more_strength_changes_more_and_takes_more_steps(editor):
    host = editor()
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


def test_several_images_start_from_the_same_picture_with_seeds_of_their_own(editor):
    host = editor()
    call = begin(host, mask=named("mask.png"), count=3, seed=20, steps=2, output={"path": "out.png"})
    assert {message["image"] for message in call.messages()} == {1, 2, 3}
    result = call.result(20)
    assert [image["relativePath"] for image in result["images"]] == ["out-1.png", "out-2.png", "out-3.png"]
    assert [image["seed"] for image in result["images"]] == [20, 21, 22]
    assert len({image["sha256"] for image in result["images"]}) == 3
    assert edit(host, mask=named("mask.png"), seed=22, steps=2)["images"][0]["sha256"] == result["images"][2]["sha256"]


def test_the_size_is_the_sources_unless_another_is_named(editor):
    host = editor()
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


def test_a_model_that_follows_instructions_has_no_strength_and_no_mask(editor):
    host = editor()
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


# --- leave -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "fs", "image_mask", "resource"),
    [
        (["text-to-image"], {"user-folder": "read-write"}, None, "image-to-image"),
        (MODALITIES, {"user-folder": "write"}, None, "user-folder"),
        (MODALITIES, {"user-folder": "read"}, None, "user-folder"),
        (MODALITIES, {"user-folder": "read-write"}, named("m.png", "app-data"), "app-data"),
        (MODALITIES, {"user-folder": "read-write"}, named("m.png", "user-paths.masks"), "user-paths.masks"),
    ],
)
def test_what_an_edit_lacks_is_denied_and_mended_by_what_the_denial_says(
    hosts, tmp_path, modalities, fs, image_mask, resource
):
    from locara_protocol.manifest import merge

    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/m.png").write_bytes(mask())
    app = {**bare_manifest(fs=fs, models=[{"id": MEDIUM}]), "modalities": list(modalities)}
    host = hosts.spawn()
    (host.folder / "in.png").write_bytes(png())
    host.initialize(manifest=app, grants={"user-folder": str(host.folder)})
    error = error_of(begin(host, mask=image_mask))
    assert (error.kind, error.data["reason"], error.data["resource"]) == ("CapabilityDenied", "notDeclared", resource)
    (entry,) = host.call("audit.capabilityLog")["entries"]
    assert (entry["decision"], entry["resource"]) == ("deny", resource)
    asked = error.data.get("host", {}).get("grants", {})
    assert set(asked) == ({image_mask["root"]} if image_mask else set())
    mended = hosts.spawn(folder=host.folder)
    grants = {"user-folder": str(host.folder)} | dict.fromkeys(asked, str(tmp_path / "masks"))
    mended.initialize(manifest=merge(app, error.data["declare"]), grants=grants)
    assert edit(mended, mask=image_mask, steps=1)["images"]


def test_the_record_tells_what_was_read_and_where_and_never_the_file_or_the_prompt(editor):
    host = editor()
    edit(host, "zanzibar", steps=1)
    edit(host, "zanzibar", image=sent(png()), steps=1)
    entries = host.call("audit.capabilityLog")["entries"]
    assert [entry["resource"].rpartition("; ")[2] for entry in entries] == [
        "fs.user-folder:read",
        "fs.user-folder:write",
    ]
    assert all(entry["capability"].startswith("modality:image-to-image") for entry in entries)
    host.close()
    log = host.log()
    assert "zanzibar" not in log
    assert "in.png" not in log


# --- images that cannot be used --------------------------------------------------------------


def animated():
    frames = [Image.new("RGB", (256, 256), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    return out.getvalue()


BROKEN = {
    "empty": (b"", "image/png"),
    "text": (b"this is no picture", "image/png"),
    "gif": (png(kind="GIF"), "image/png"),
    "half": (png()[:200], "image/png"),
    "head only": (png()[:16], "image/png"),
    "animated": (animated(), "image/webp"),
    "noise in a png": (png()[:33] + os.urandom(300), "image/png"),
}


@pytest.mark.parametrize("member", ["image", "mask"])
@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_is_none_is_refused_by_name_and_the_next_call_works(editor, name, member):
    host = editor()
    data, kind = BROKEN[name]
    (host.folder / "bad").write_bytes(data)
    before = host.files()
    for form in (sent(data, kind), named("bad")):
        error = error_of(begin(host, **{member: form}))
        assert (error.code, error.kind, error.data["path"]) == (-32017, "InvalidImage", f"$.{member}")
        assert error.data["reason"]
    assert host.files() == before
    assert edit(host, steps=1)["images"]


def test_an_image_that_is_not_the_kind_that_it_was_sent_as_is_refused(editor):
    error = error_of(begin(editor(), image=sent(png(kind="JPEG"), "image/png")))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.image")


def test_a_mask_of_another_size_than_the_picture_is_refused(editor):
    error = error_of(begin(editor(), mask=sent(mask((128, 128), (0, 0, 9, 9)))))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.mask")


def test_a_picture_that_would_unpack_to_gigabytes_is_refused_before_it_does(editor):
    host = editor()
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")
    error = error_of(begin(host, image=sent(bomb.getvalue())))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.image")
    assert edit(host, steps=1)["images"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process's memory map")
def test_the_daemon_itself_decodes_nothing(editor):
    host = editor()
    edit(host, mask=named("mask.png"), steps=1)
    assert "_imaging" not in Path(f"/proc/{host.process.pid}/maps").read_text()


# --- files that cannot be read ---------------------------------------------------------------


def test_a_file_is_read_below_its_root_or_not_at_all(editor, tmp_path):
    host = editor()
    (tmp_path / "outside.png").write_bytes(png())
    (host.folder / "link.png").symlink_to(tmp_path / "outside.png")
    (host.folder / "up").symlink_to(tmp_path)
    os.mkfifo(host.folder / "pipe.png")
    (host.folder / "folder.png").mkdir()
    bad = ["../outside.png", str(tmp_path / "outside.png"), "a//b.png", "./in.png", "in.png/", "a\0.png"]
    errno = {
        "none.png": "ENOENT",
        "link.png": "ELOOP",
        "up/outside.png": "ELOOP",
        "pipe.png": "EINVAL",
        "folder.png": "EISDIR",
    }
    for member in ("image", "mask"):
        for path in bad:
            error = error_of(begin(host, **{member: named(path)}), 5)
            assert (error.kind, error.data["path"]) == ("InvalidParams", f"$.{member}.path"), path
        for path, number in errno.items():
            error = error_of(begin(host, **{member: named(path)}), 5)
            assert (error.kind, error.data["errno"], error.data["path"]) == (
                "StorageError",
                number,
                f"$.{member}.path",
            )
    assert edit(host, steps=1)["images"]


def test_a_file_over_the_limit_is_refused_unread(editor):
    host = editor()
    with (host.folder / "huge.png").open("wb") as file:
        file.write(png())
        file.truncate(64 * 1024 * 1024 + 1)
    error = error_of(begin(host, image=named("huge.png")))
    assert (error.kind, error.data["path"], error.data["maxBytes"]) == ("InvalidImage", "$.image.path", 67108864)
    assert edit(host, steps=1)["images"]


def test_a_file_is_the_one_that_was_named_when_the_call_came(editor):
    host = editor()
    running = begin(host, "fake:slow=20000 first", steps=2)
    until(running, "denoising")
    waiting = begin(host, image=named("in.png"), steps=1)
    until(waiting, "queued")
    # its turn has not come, yet a file that is not there is told at once
    assert error_of(begin(host, image=named("none.png")), 5).data["errno"] == "ENOENT"
    replacement = host.folder / "new.png"
    replacement.write_bytes(png(colour=(0, 0, 255)))
    replacement.rename(host.folder / "in.png")
    assert [job["state"] for job in host.call("jobs.list")["jobs"]] == ["running", "queued"]
    running.cancel()
    error_of(running, 5)
    made = read_parameters(decoded(waiting.result(20)["images"][0]))
    assert made["image"]["sha256"] == hashlib.sha256(png()).hexdigest()


def test_a_queue_of_large_files_takes_no_memory(editor):
    host = editor()
    for name in ("one.png", "two.png"):
        (host.folder / name).write_bytes(png() + os.urandom(60 << 20))
    running = begin(host, "fake:slow=20000 first", steps=2)
    until(running, "denoising")
    before = psutil.Process(host.process.pid).memory_info().rss
    calls = [begin(host, image=named("one.png"), mask=named("two.png"), steps=1) for _ in range(8)]
    for call in calls:
        until(call, "queued")
    # a file that is not there is told when those before it have been opened, or nearly
    assert error_of(begin(host, image=named("none.png"))).kind == "StorageError"
    assert psutil.Process(host.process.pid).memory_info().rss - before < 16 << 20
    for call in [*reversed(calls), running]:
        call.cancel()
        error_of(call, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="uses fork and an atomic exchange of names")
def test_no_edit_reads_outside_while_links_are_swapped(hosts, tmp_path):
    from campaigns.saving import Arena, forked

    arena = Arena(tmp_path / "arena")
    (arena.root / "sub/in.png").write_bytes(png())
    (arena.outside / "in.png").write_bytes(png(colour=(0, 0, 255)))
    host = hosts.spawn(env={**os.environ, "LOCARA_FAKE_STEP_MS": "0", "LOCARA_FAKE_DECODE_MS": "0"})
    host.initialize(manifest=manifest(MEDIUM, modalities=MODALITIES), grants={"user-folder": str(arena.root)})
    inline, seen, refused = {"mode": "inline"}, set(), set()
    with forked(arena.swap):
        for number in range(400):
            try:
                result = edit(host, image=named("sub/in.png"), steps=1, output=inline)
                seen.add(result["parameters"] and read_parameters(decoded(result["images"][0]))["image"]["sha256"])
            except Exception as error:  # noqa: BLE001
                refused.add((error.kind, error.data["errno"]))
            if number >= 40 and seen and refused:
                break
    arena.close()
    assert seen == {hashlib.sha256(png()).hexdigest()}
    assert refused
    assert {kind for kind, _ in refused} == {"StorageError"}


# --- cancelling ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="counts the process's descriptors")
@pytest.mark.parametrize("phase", ["queued", "loading", "encoding", "denoising", "decoding"])
def test_a_cancel_in_each_phase_is_answered_and_gives_the_files_back(editor, phase):
    slow = {} if phase == "queued" else {f"LOCARA_FAKE_{NAMES[phase]}_MS": "20000"}
    host = editor(env={**os.environ, **slow})

    def files():
        folder = f"/proc/{host.process.pid}/fd"
        targets = []
        for number in os.listdir(folder):
            try:
                targets.append(os.readlink(f"{folder}/{number}"))
            except FileNotFoundError:
                continue
        return {target for target in targets if target.startswith(f"{host.folder}/")}

    first = None
    if phase == "queued":
        first = begin(host, "fake:slow=20000 first", image=sent(png()), output={"mode": "inline"}, steps=2)
        until(first, "denoising")
    call = begin(host, mask=named("mask.png"), steps=2)
    until(call, phase)
    deadline = time.monotonic() + 10
    while files() != {str(host.folder / name) for name in ("in.png", "mask.png")}:
        assert time.monotonic() < deadline
    call.cancel()
    error = error_of(call, 5)
    assert (error.code, error.data["images"]) == (-32800, [])
    if first is not None:
        first.cancel()
        error_of(first, 5)
    assert files() == set()
    assert host.files() == ["in.png", "mask.png"]


NAMES = {"loading": "LOAD", "encoding": "ENCODE", "denoising": "STEP", "decoding": "DECODE"}


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


# --- one picture, in one form ----------------------------------------------------------------

WHOLE = {"root": "user-folder", "path": "in.png"}, {"data": b"x", "mime_type": "image/png"}


@pytest.mark.parametrize("member", ["image", "mask"])
@pytest.mark.parametrize(
    ("given", "at"),
    [
        ({}, ""),
        ({**WHOLE[0], **WHOLE[1]}, ""),
        ({**WHOLE[0], "mime_type": "image/png"}, ""),
        ({"root": "user-folder"}, ".path"),
        ({"path": "in.png"}, ".root"),
        ({"data": b"x"}, ".mimeType"),
        ({"mime_type": "image/png"}, ".data"),
        (WHOLE[0], None),
        (WHOLE[1], None),
    ],
)
def test_a_picture_and_a_mask_come_whole_and_in_one_form(member, given, at):
    members = {"image": ImageInput(**WHOLE[0])} | {member: ImageInput(**given)}
    params = EditParams(prompt="a lake", **members)
    if at is None:
        named_ones = [name for name, one in members.items() if one.root is not None]
        assert [source.at for source in check_forms(params)] == [f"$.{name}.root" for name in named_ones]
        return
    with pytest.raises(RpcError) as caught:
        check_forms(params)
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", f"$.{member}{at}")


def test_a_file_that_was_being_opened_as_its_job_ended_is_given_back(monkeypatch):
    given_back = []

    class File:
        def close(self):
            given_back.append(self)

    def open_slowly(sources):
        sources.close()  # the job ends meanwhile
        sources._files["$.image"] = File()

    monkeypatch.setattr(SourceImages, "_open", open_slowly)
    anyio.run(SourceImages(EditParams(prompt="a", image=ImageInput(**WHOLE[0])), ()).open)
    assert len(given_back) == 1
