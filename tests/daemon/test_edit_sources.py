"""image.edit through the real daemon: what may be edited, what is read, and what is refused."""

import hashlib
import io
import os
import sys
from pathlib import Path

import anyio
import anyio.from_thread
import psutil
import pytest
from PIL import Image

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import EditParams, ImageInput
from locara_sidecar.daemon.images.source_images import SourceImages, check_forms
from locara_sidecar.engine.images import read_parameters
from support.edit_calls import MEDIUM, MODALITIES, begin, edit, mask, named, png, sent
from support.granted_folders import manifest as bare_manifest
from support.host import decoded, error_of, manifest, until

# --- permission ------------------------------------------------------------------------------


@pytest.mark.slow
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
    app = {**bare_manifest(fs=fs, models=[MEDIUM]), "modalities": list(modalities)}
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
def test_an_image_that_is_none_is_refused_by_name_and_the_next_call_works(kept_editor, name, member):
    data, kind = BROKEN[name]
    (kept_editor.folder / "bad").write_bytes(data)
    before = kept_editor.files()
    for form in (sent(data, kind), named("bad")):
        error = error_of(begin(kept_editor, **{member: form}))
        assert (error.code, error.kind, error.data["path"]) == (-32017, "InvalidImage", f"$.{member}")
        assert error.data["reason"]
    assert kept_editor.files() == before
    assert edit(kept_editor, steps=1)["images"]


def test_an_image_that_is_not_the_kind_that_it_was_sent_as_is_refused(kept_editor):
    error = error_of(begin(kept_editor, image=sent(png(kind="JPEG"), "image/png")))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.image")


def test_a_mask_of_another_size_than_the_picture_is_refused(kept_editor):
    error = error_of(begin(kept_editor, mask=sent(mask((128, 128), (0, 0, 9, 9)))))
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.mask")


@pytest.mark.slow
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


@pytest.mark.slow
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
    # a missing file is reported at once, before the job's turn comes
    assert error_of(begin(host, image=named("none.png")), 5).data["errno"] == "ENOENT"
    replacement = host.folder / "new.png"
    replacement.write_bytes(png(colour=(0, 0, 255)))
    replacement.rename(host.folder / "in.png")
    assert [job["state"] for job in host.call("jobs.list")["jobs"]] == ["running", "queued", "failed"]
    running.cancel()
    error_of(running, 5)
    made = read_parameters(decoded(waiting.result(20)["images"][0]))
    assert made["image"]["sha256"] == hashlib.sha256(png()).hexdigest()


@pytest.mark.slow
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
    # when a missing file is reported, those before it have been opened, or nearly
    assert error_of(begin(host, image=named("none.png"))).kind == "StorageError"
    assert psutil.Process(host.process.pid).memory_info().rss - before < 16 << 20
    for call in [*reversed(calls), running]:
        call.cancel()
        error_of(call, 5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses fork and an atomic exchange of names")
def test_no_edit_reads_outside_while_links_are_swapped(hosts, tmp_path):
    from support.swapped_links import Arena, forked

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
        assert [source.at for source in check_forms(params)[0]] == [f"$.{name}.root" for name in named_ones]
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
        anyio.from_thread.run(sources.aclose)  # the job ends meanwhile
        sources._files["$.image"] = File()

    monkeypatch.setattr(SourceImages, "_open", open_slowly)
    anyio.run(SourceImages(EditParams(prompt="a", image=ImageInput(**WHOLE[0])), ()).open)
    assert len(given_back) == 1
