"""Bad input gets a typed error and leaves nothing behind, and the next call works."""

import os
import subprocess

import pytest

from support.host import error_of, until

PIXEL_LIMITS = [
    ({"width": 63}, "$.options.width"),
    ({"height": 65}, "$.options.height"),
    ({"width": 0}, "$.options.width"),
    ({"steps": 0}, "$.options.steps"),
    ({"steps": -3}, "$.options.steps"),
    ({"steps": 201}, "$.options.steps"),
    ({"steps": 4.0}, "$.options.steps"),
    ({"steps": "4"}, "$.options.steps"),
    ({"stepz": 4}, "$.options.stepz"),
    ({"guidance": -0.1}, "$.options.guidance"),
    ({"seed": 2**32}, "$.options.seed"),
    ({"seed": 2**32 - 1, "count": 2}, "$.options.seed"),
    ({"count": 17}, "$.options.count"),
    ({"scheduler": "euler-of-old"}, "$.options.scheduler"),
    ({"speed": "warp"}, "$.options.speed"),
    ({"preview": {"mode": "loud"}}, "$.options.preview.mode"),
    ({"preview": {"maxBytes": 65536}}, "$.options.preview.maxBytes"),
    ({"preview": {"every": 2}}, "$.options.preview.every"),
    ({"output": {"path": "a.jpg"}}, "$.options.output.path"),
    ({"output": {"path": "../a.png"}}, "$.options.output.path"),
    ({"output": {"path": "/tmp/a.png"}}, "$.options.output.path"),
    ({"output": {"path": "a\u0000.png"}}, "$.options.output.path"),
    ({"output": {"quality": 0}}, "$.options.output.quality"),
]


@pytest.mark.parametrize(("options", "path"), PIXEL_LIMITS, ids=lambda value: str(value)[:50])
def test_an_invalid_option_is_named_with_its_path(options, path, kept):
    error = error_of(kept.begin(**options))
    assert (error.code, error.kind, error.data["path"]) == (-32602, "InvalidParams", path)
    assert kept.files() == []
    assert kept.generate(steps=1)["images"]


def test_the_prompt_must_say_something_and_not_too_much(kept):
    for prompt in ("", " \n\t", "x" * 16385, "é" * 8193):
        error = error_of(kept.begin(prompt))
        assert (error.kind, error.data["path"]) == ("InvalidParams", "$.prompt")
    assert kept.generate("x" * 16384, steps=1)["images"]


def test_null_is_the_same_as_absent(kept):
    result = kept.generate(width=None, steps=1, seed=None, preview=None, output={"path": None, "mode": None})
    assert result["images"]


def test_a_model_that_nobody_knows_is_not_found_once_it_is_granted(hosts):
    host = hosts.session(models=("dream-9",))
    error = error_of(host.begin(model="dream-9"))
    assert (error.kind, error.data["model"]) == ("ModelNotFound", "dream-9")
    assert error.message == "There is no model dream-9 in the catalogue."  # this app must not learn what else it has
    both = hosts.session(models=("dream-9", "pocket"))
    known = error_of(both.begin(model="dream-9")).message
    assert known == "There is no model dream-9 in the catalogue; of the models that the manifest names, it has pocket."
    assert host.files() == []
    assert error_of(host.begin(model="pocket")).kind == "CapabilityDenied"
    assert host.call("ping")["jobs"] == {"running": 0, "queued": 0}


def test_a_model_that_is_not_installed_says_so(hosts):
    host = hosts.session(engine="torch", models=("sd3.5-medium",))
    assert error_of(host.begin(model="sd3.5-medium")).kind == "ModelNotInstalled"
    assert error_of(host.begin()).kind == "ModelNotInstalled"


@pytest.mark.slow
def test_a_missing_folder_is_told_before_any_work_and_the_next_call_works(hosts):
    host = hosts.session()
    os.rename(host.folder, host.folder.with_name("away"))
    error = error_of(host.begin(steps=1))
    assert (error.kind, error.data["errno"]) == ("StorageError", "ENOENT")
    os.rename(host.folder.with_name("away"), host.folder)
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/usr/bin/chattr"), reason="root may write everywhere")
def test_a_read_only_folder_is_a_storage_error_and_leaves_nothing(hosts):
    host = hosts.session()
    if os.geteuid() == 0:
        if subprocess.run(["chattr", "+i", host.folder], capture_output=True, check=False).returncode:
            pytest.skip("this file system has no immutable flag, and root may write everywhere else")
        undo = ["chattr", "-i", host.folder]
    else:
        host.folder.chmod(0o500)
        undo = ["chmod", "700", host.folder]
    try:
        error = error_of(host.begin(steps=1))
    finally:
        subprocess.run(undo, check=True)
    assert error.kind == "StorageError"
    assert error.data["errno"] in ("EPERM", "EACCES")
    assert host.files() == []
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
def test_a_full_disk_is_told_with_numbers_and_leaves_no_temporary(hosts, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (disk / "filler").write_bytes(b"x" * 65536)
        host = hosts.session(folder=disk)
        error = error_of(host.begin(model="pocket", steps=1))
        assert error.kind == "InsufficientDisk"
        assert error.data["needed"] > error.data["available"]
        assert host.files() == ["filler"]
        (disk / "filler").unlink()
        assert host.generate(steps=1)["images"]
    finally:
        host.close()
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_save_that_fails_tells_what_was_saved_before_and_stops_the_rest(hosts):
    host = hosts.session()
    (host.folder / "lake-2.png").write_bytes(b"the user's own")
    call = host.begin("fake:slow=150 a lake", steps=3, count=5, output={"path": "lake.png", "onConflict": "error"})
    images = {message["image"] for message in call.messages()}
    error = error_of(call)
    assert (error.kind, error.data["errno"]) == ("StorageError", "EEXIST")
    assert [image["relativePath"] for image in error.data["images"]] == ["lake-1.png"]
    assert host.files() == ["lake-1.png", "lake-2.png"]
    assert (host.folder / "lake-2.png").read_bytes() == b"the user's own"
    assert 5 not in images
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
def test_an_id_in_flight_is_refused_and_its_owner_is_untouched(hosts):
    host = hosts.session()
    first = host.begin("fake:slow=30 a lake", steps=10)
    until(first, "denoising")
    host.send_raw(b'{"jsonrpc":"2.0","id":"own","method":"image.generate","params":{"prompt":"fake:slow=50 x"}}')
    for line in (b'"method":"ping"', b'"method":"no.such"'):
        host.send_raw(b'{"jsonrpc":"2.0","id":"own",' + line + b"}")
        refused = host.next_unmatched(10)
        assert (refused["id"], refused["error"]["code"]) == ("own", -32600)
    assert first.result(10)["images"]
    host.notify("$/cancelRequest", {"id": "own"})
    assert host.next_unmatched(10)["error"]["code"] == -32800
    host.send_raw(b'{"jsonrpc":"2.0","id":"own","method":"ping"}')
    assert host.next_unmatched(10)["result"]["jobs"] == {"running": 0, "queued": 0}


@pytest.mark.slow
def test_a_channel_in_use_is_refused_and_its_owner_is_untouched(hosts):
    host = hosts.session()
    first = host.begin("fake:slow=30 a lake", steps=10)
    until(first, "denoising")
    second = host.start("image.generate", {"prompt": "x", "channel": first.channel})
    error = error_of(second)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.channel")
    assert len([m for m in first.messages() if m["phase"] == "denoising"]) == 10
    assert first.result(10)["images"]
    again = host.start(
        "image.generate", {"prompt": "x", "channel": f"__CHANNEL__:{first.channel}", "options": {"steps": 1}}
    )
    assert again.result(10)["images"]
    # the client never uses a number twice, so it considers the frames of this second use late ones
    host.violations.clear()


def test_a_refused_call_still_ends_the_valid_channel_that_it_named(hosts):
    host = hosts.session()
    call = host.begin(steps=0)
    assert list(call.messages()) == []
    assert error_of(call).kind == "InvalidParams"
    assert any(b'"end":true' in line and b'"index":0' in line for _, line in host.lines)


@pytest.mark.parametrize("channel", [-1, 2**32, 1.5, "7", "__CHANNEL__:x", True, []])
def test_a_channel_that_is_no_u32_is_refused(channel, kept):
    error = error_of(kept.start("image.generate", {"prompt": "x", "channel": channel}))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.channel")
    assert kept.files() == []
    assert kept.generate(steps=1)["images"]


@pytest.mark.slow
def test_cancels_of_the_unknown_and_the_finished_are_no_errors(hosts):
    host = hosts.session()
    for method, params in (
        ("$/cancelRequest", {"id": 99}),
        ("$/cancel_request", {"id": "x"}),
        ("notifications/cancelled", {}),
    ):
        host.notify(method, params)
    assert host.call("image.cancel", {"jobId": "job-77"}) == {"cancelled": False}
    call = host.begin(steps=1)
    result = call.result(10)
    call.cancel()
    assert host.call("image.cancel", {"jobId": result["jobId"]}) == {"cancelled": False}
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
def test_two_daemons_in_one_folder_never_take_each_others_names(hosts):
    one = hosts.session()
    two = hosts.session(folder=one.folder)
    calls = [host.begin(steps=1, count=8, seed=3, output={"path": "same.png"}) for host in (one, two)]
    paths = [image["path"] for call in calls for image in call.result(30)["images"]]
    assert len(set(paths)) == 16
    assert len(one.files()) == 16


def test_no_prompt_and_no_token_reaches_the_log(hosts):
    host = hosts.spawn("--log-level", "debug")
    host.open(auth={"token": "hf_secret_token"})
    host.generate("zanzibar umbrella", steps=2)
    error_of(host.begin("zanzibar umbrella fake:crash=denoising", steps=3))
    error_of(host.begin("zanzibar umbrella", steps=3, scheduler="zanzibar"))
    host.send_raw(b'{"jsonrpc":"2.0","id":5,"method":"image.generate","params":{"prompt":"zanzibar umbrella"')
    host.call("ping")
    host.close()
    log = host.log()
    assert "zanzibar" not in log
    assert "umbrella" not in log
    assert "hf_secret" not in log
    assert '"logger"' in log
