"""Files that the user picked, through the real daemon: handles instead of folders, and access to that one file only."""

import io
import json
import subprocess

import psutil
import pytest
from PIL import Image

from locara_protocol.client import RemoteError, Sidecar
from locara_protocol.host_messages import MAX_PICKED_FILES
from locara_protocol.manifest import merge
from locara_sidecar.daemon.access.sizes import MAX_INLINE_IMAGE_BYTES
from locara_sidecar.daemon.images.picked_files import MAX_SENT_BYTES
from support.host import command, decoded, error_of, manifest, until

MEDIUM = "sd3.5-medium"


def png(colour=(200, 30, 40), size=(256, 256), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def app(word="read-write", **more):
    return manifest(
        "pocket", MEDIUM, modalities=("text-to-image", "image-to-image"), fs={"user-selected": word, **more}
    )


@pytest.fixture
def host(hosts):
    """A session that may use what the user picks and has no folder at all."""
    host = hosts.spawn()
    host.initialize(manifest=app())
    return host


def pick(host, name, access="read"):
    return host.pick_file(host.folder / name, access)["handle"]


def edit(host, image, mask=None, **options):
    options.setdefault("output", {"mode": "inline"})
    params = {"prompt": "greener", "image": image, "options": {"model": MEDIUM, "steps": 2, "seed": 1, **options}}
    return host.start("image.edit", params if mask is None else {**params, "mask": mask})


def refused(call):
    error = error_of(call, 10)
    assert error.kind == "InvalidParams"
    return error.data["path"]


def test_a_picked_picture_and_mask_are_edited_into_a_picked_file_and_into_nothing_else(host, hosts):
    (host.folder / "in.png").write_bytes(png())
    (host.folder / "mask.png").write_bytes(png(255, mode="L"))
    answer = host.pick_file(host.folder / "in.png", "read")
    assert (answer["name"], answer["bytes"]) == ("in.png", len(png()))
    mask, out = pick(host, "mask.png"), host.pick_file(host.folder / "out.png", "write")
    assert (out["name"], "bytes" in out) == ("out.png", False)
    result = edit(host, {"handle": answer["handle"]}, {"handle": mask}, output={"handle": out["handle"]}).result(20)
    (image,) = result["images"]
    assert image["handle"] == out["handle"]
    assert not {"path", "root", "relativePath", "data"} & image.keys()
    assert host.files() == ["in.png", "mask.png", "out.png"]
    saved = (host.folder / "out.png").read_bytes()
    assert (len(saved), Image.open(io.BytesIO(saved)).size) == (image["bytes"], (256, 256))
    # the same pixels as with folders, and the same again from the parameters in the answer
    assert result["parameters"]["image"] == {"handle": answer["handle"]}
    assert result["parameters"]["options"]["output"] == {
        "mode": "save",
        "handle": out["handle"],
        "mimeType": "image/png",
        "quality": 90,
        "metadata": "full",
    }
    assert host.call("image.edit", result["parameters"], timeout=20)["images"][0]["sha256"] == image["sha256"]
    other = hosts.spawn(folder=host.folder)
    other.initialize(manifest=app(**{"user-folder": "read"}), grants={"user-folder": str(host.folder)})
    named = [{"root": "user-folder", "path": name} for name in ("in.png", "mask.png")]
    assert decoded(edit(other, *named, output={"mode": "inline"}).result(20)["images"][0]) == saved


def test_a_picture_can_be_drawn_into_a_picked_file_and_the_answer_at_once(host):
    handle = pick(host, "new.jpeg", "write")
    output = {"handle": handle, "mode": "both", "mimeType": "image/jpeg"}
    (image,) = host.generate(steps=1, output=output)["images"]
    assert decoded(image) == (host.folder / "new.jpeg").read_bytes()


def test_a_file_that_the_user_confirmed_is_replaced(host):
    (host.folder / "old.png").write_bytes(b"the user's own")
    handle = pick(host, "old.png", "write")
    for seed in (1, 2):
        (image,) = host.generate(steps=1, seed=seed, output={"handle": handle})["images"]
        assert len((host.folder / "old.png").read_bytes()) == image["bytes"]
    assert host.files() == ["old.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"count": 2}, "$.options.count"),
        ({"output": {"root": "user-folder"}}, "$.options.output.root"),
        ({"output": {"path": "a.png"}}, "$.options.output.path"),
        ({"output": {"onConflict": "rename"}}, "$.options.output.onConflict"),
        ({"output": {"mode": "inline"}}, "$.options.output.mode"),
        ({"output": {"mimeType": "image/webp"}}, "$.options.output.handle"),
    ],
)
def test_a_handle_says_all_about_where_one_picture_goes(host, options, path):
    handle = pick(host, "a.png", "write")
    output = {"handle": handle, **options.pop("output", {})}
    assert refused(host.begin(steps=1, output=output, **options)) == path
    assert host.files() == []
    assert host.generate(steps=1, output={"handle": handle})["images"]


@pytest.mark.slow
def test_null_beside_a_handle_is_the_same_as_absent(host):
    output = {"handle": pick(host, "a.png", "write"), "root": None, "path": None, "onConflict": None, "mode": None}
    assert host.generate(steps=1, output=output)["images"]


@pytest.mark.slow
def test_a_handle_that_is_unknown_released_or_for_the_other_access_is_a_bad_parameter(host, hosts):
    (host.folder / "in.png").write_bytes(png())
    source, target = pick(host, "in.png"), pick(host, "out.png", "write")
    assert refused(host.begin(steps=1, output={"handle": "file-0"})) == "$.options.output.handle"
    assert refused(host.begin(output={"handle": source})) == "$.options.output.handle"
    assert refused(edit(host, {"handle": target})) == "$.image.handle"
    assert refused(edit(host, {"handle": source}, {"handle": "file-0"})) == "$.mask.handle"
    assert refused(edit(host, {"handle": source, "root": "user-folder", "path": "in.png"})) == "$.image"
    other = hosts.spawn(folder=host.folder)
    other.initialize(manifest=app())
    assert refused(edit(other, {"handle": source})) == "$.image.handle"
    for handle in (source, target, source, "file-0"):
        host.release_file(handle)
    assert refused(edit(host, {"handle": source})) == "$.image.handle"
    assert refused(host.begin(output={"handle": target})) == "$.options.output.handle"
    assert host.files() == ["in.png"]


@pytest.mark.slow
def test_a_call_that_waits_keeps_its_files_though_they_are_released(host):
    (host.folder / "in.png").write_bytes(png())
    running = host.begin("fake:slow=20000 a lake", model="pocket", steps=2, output={"mode": "inline"})
    until(running, "denoising")
    source, target = pick(host, "in.png"), pick(host, "out.png", "write")
    waiting = edit(host, {"handle": source}, output={"handle": target})
    for handle in (source, target):
        host.release_file(handle)
    (host.folder / "in.png").unlink()
    running.cancel()
    error_of(running, 5)
    assert waiting.result(20)["images"][0]["handle"] == target
    assert host.files() == ["out.png"]


def test_another_file_that_takes_the_name_is_told_before_anything_is_drawn(host):
    handle = pick(host, "out.png", "write")
    (host.folder / "out.png").write_bytes(b"somebody else's")
    call = host.begin(steps=20, output={"handle": handle})
    phases = {message["phase"] for message in call.messages()}
    error = error_of(call)
    assert (error.kind, error.data["errno"]) == ("StorageError", "EEXIST")
    assert phases == {"queued", "loading"}
    assert (host.folder / "out.png").read_bytes() == b"somebody else's"


def test_what_is_no_image_is_told_with_its_parameter(host):
    (host.folder / "in.png").write_bytes(b"no picture")
    error = error_of(edit(host, {"handle": pick(host, "in.png")}))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.image")


@pytest.mark.slow
@pytest.mark.parametrize(("word", "access"), [(False, "read"), (False, "write"), ("read", "write")])
def test_nothing_is_picked_without_its_declaration_and_what_the_denial_asks_for_is_enough(hosts, word, access):
    host = hosts.spawn()
    (host.folder / "a.png").write_bytes(png())
    host.initialize(manifest=app(word))
    denied = error_of(host.start("host.pickFile", {"path": str(host.folder / "a.png"), "access": access}))
    assert (denied.kind, denied.data["capability"], denied.data["resource"]) == (
        "CapabilityDenied",
        "fs.user-selected",
        "a.png",
    )
    mended = hosts.spawn(folder=host.folder)
    mended.initialize(manifest=merge(app(word), denied.data["declare"]))
    assert pick(mended, "a.png", access)


@pytest.mark.slow
def test_the_record_and_the_log_tell_names_and_neither_handles_nor_folders(host):
    (host.folder / "in.png").write_bytes(png())
    source, target = pick(host, "in.png"), pick(host, "out.png", "write")
    edit(host, {"handle": source}, output={"handle": target}).result(20)
    refused(edit(host, {"handle": "file-0"}))
    entries = host.call("audit.capabilityLog")["entries"]
    assert [(entry["capability"], entry["resource"]) for entry in entries] == [
        ("fs.user-selected:read", "in.png"),
        ("fs.user-selected:write", "out.png"),
        ("modality:image-to-image", f"{MEDIUM}; fs.user-selected:write out.png; fs.user-selected:read in.png"),
        ("modality:image-to-image", f"{MEDIUM}; fs.user-selected:read unknown"),
    ]
    told = json.dumps(entries) + host.log()
    for secret in (source, target, str(host.folder)):
        assert secret not in told


@pytest.mark.slow
def test_handles_are_bounded_and_there_is_room_again_once_one_is_released(host):
    (host.folder / "in.png").write_bytes(png())
    handles = [pick(host, "in.png") for _ in range(MAX_PICKED_FILES)]
    assert len(set(handles)) == MAX_PICKED_FILES
    full = error_of(host.start("host.pickFile", {"path": str(host.folder / "in.png"), "access": "read"}))
    assert (full.kind, full.data["errno"]) == ("StorageError", "EMFILE")
    host.release_file(handles[0])
    assert pick(host, "in.png")
    many = [host.start("host.pickFile", {"path": str(host.folder / "in.png"), "access": "read"}) for _ in range(20)]
    assert {error_of(call).kind for call in many} == {"StorageError"}
    assert host.generate(steps=1, output={"mode": "inline"})["images"]


def test_a_shutdown_answers_a_pick_that_is_under_way(host):
    (host.folder / "in.png").write_bytes(png())
    calls = [host.start("host.pickFile", {"path": str(host.folder / "in.png"), "access": "read"}) for _ in range(5)]
    assert host.close() == 0
    for call in calls:  # it does not wait for a file that is not there yet
        try:
            assert call.result(5)["handle"]
        except RemoteError as error:
            assert error.code == -32800  # noqa: PT017


# --- files without a path -------------


@pytest.mark.slow
def test_files_that_are_handed_over_are_as_good_as_picked_by_path(tmp_path):
    (tmp_path / "in.png").write_bytes(png())
    (tmp_path / "out.png").write_bytes(b"old")
    with Sidecar(command("--engine", "fake"), hands_files=True, stderr=subprocess.DEVNULL) as sidecar:
        sidecar.initialize(manifest=app())
        by_path = sidecar.pick_file(tmp_path / "in.png", "read")
        with (tmp_path / "in.png").open("rb") as opened:
            by_descriptor = sidecar.pick_open_file("in.png", opened.fileno(), "read")
        by_bytes = sidecar.pick_bytes("in.png", png())
        with (tmp_path / "out.png").open("r+b") as opened:
            out = sidecar.pick_open_file("out.png", opened.fileno(), "write")["handle"]
        made = set()
        for picked in (by_path, by_descriptor, by_bytes):
            assert (picked["name"], picked["bytes"]) == ("in.png", len(png()))
            output = {"handle": out, "mode": "both"}
            params = {
                "image": {"handle": picked["handle"]},
                "options": {"model": MEDIUM, "steps": 2, "seed": 1, "output": output},
            }
            (image,) = sidecar.call("image.edit", {"prompt": "greener", **params}, timeout=50)["images"]
            assert (tmp_path / "out.png").read_bytes() == decoded(image)
            made.add(image["sha256"])
        assert len(made) == 1
        with pytest.raises(RemoteError) as caught, (tmp_path / "in.png").open("rb") as opened:
            sidecar.pick_open_file("b/in.png", opened.fileno(), "read")
        assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", "$.name")
        log = sidecar.call("audit.capabilityLog")["entries"]
        assert {entry["resource"] for entry in log if entry["capability"].startswith("fs.user-selected")} == {
            "in.png",
            "out.png",
        }


@pytest.mark.slow
def test_what_was_sent_for_a_call_that_is_not_of_the_contracts_form_is_used_up(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with (
        (tmp_path / "a.png").open("rb") as opened,
        Sidecar(command("--engine", "fake"), hands_files=True, stderr=subprocess.DEVNULL) as sidecar,
    ):
        sidecar.initialize(manifest=app())
        for _ in range(3):
            with pytest.raises(RemoteError) as caught:
                sidecar.pick_open_file("b/a.png", opened.fileno(), "read")
            assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", "$.name")
        with pytest.raises(RemoteError) as caught:
            sidecar.call("host.pickFile", {"name": "a.png", "descriptor": "file-1", "access": "read"})
        assert caught.value.data["path"] == "$.descriptor"
        assert str(tmp_path / "a.png") not in {file.path for file in psutil.Process(sidecar.process.pid).open_files()}
        assert sidecar.pick_open_file("a.png", opened.fileno(), "read")["bytes"] == len(png())


@pytest.mark.slow
def test_without_a_socket_and_without_the_declaration_nothing_is_handed_over(hosts, tmp_path):
    host = hosts.spawn()
    host.initialize(manifest=app())
    with pytest.raises(RuntimeError, match="hands_files"):
        host.pick_open_file("a.png", 0, "read")
    params = {"name": "a.png", "descriptor": "file-1", "access": "read"}
    error = error_of(host.start("host.pickFile", params))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.descriptor")
    with Sidecar(command("--engine", "fake"), hands_files=True, stderr=subprocess.DEVNULL) as sidecar:
        sidecar.initialize(manifest=app(False))
        (tmp_path / "a.png").write_bytes(png())
        with (tmp_path / "a.png").open("rb") as opened:
            for attempt in (
                lambda: sidecar.pick_open_file("a.png", opened.fileno(), "read"),
                lambda: sidecar.pick_bytes("a.png", png()),
            ):
                with pytest.raises(RemoteError) as caught:
                    attempt()
                assert caught.value.kind == "CapabilityDenied"
        places = {file.path for file in psutil.Process(sidecar.process.pid).open_files()}
        assert str(tmp_path / "a.png") not in places


@pytest.mark.slow
def test_bytes_that_are_handed_over_are_bounded(host):
    data = bytes(MAX_INLINE_IMAGE_BYTES)
    handles = [host.pick_bytes("a.png", data)["handle"] for _ in range(MAX_SENT_BYTES // len(data))]
    with pytest.raises(RemoteError) as caught:
        host.pick_bytes("a.png", data)
    assert (caught.value.kind, caught.value.data["errno"]) == ("StorageError", "EMFILE")
    host.release_file(handles[0])
    assert host.pick_bytes("a.png", data)["bytes"] == len(data)
    with pytest.raises(RemoteError) as caught:
        host.pick_bytes("a.png", data + b"x")
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", "$.data")


@pytest.mark.parametrize("words", [["--descriptors", "x"], ["--descriptors", "2"], ["--descriptors", "77"]])
def test_what_is_no_socket_is_a_wrong_command_line(words):
    ended = subprocess.run(command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "descriptor" in ended.stderr
