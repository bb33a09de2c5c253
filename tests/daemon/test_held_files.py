"""A file that hangs delays only its own call, and only until that is cancelled."""

import io
import time

import pytest
from PIL import Image

from support.held_files import HeldHost
from support.host import error_of, manifest


def png():
    out = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 30, 40)).save(out, "PNG")
    return out.getvalue()


def app():
    return manifest(
        "pocket",
        "sd3.5-medium",
        modalities=("text-to-image", "image-to-image"),
        fs={"user-selected": "read-write", "user-folder": "read-write"},
    )


@pytest.fixture
def spawned(tmp_path):
    """Make a session whose sidecar hangs in system calls of that name."""
    made = []

    def spawn(*held):
        folder = tmp_path / "pictures"
        folder.mkdir()
        (folder / "in.png").write_bytes(png())
        host = HeldHost(folder, *held)
        made.append(host)
        host.initialize(manifest=app(), grants={"user-folder": str(folder)})
        return host

    yield spawn
    for host in made:
        if host.gate.exists():
            host.let_go()
        assert host.close() == 0
        assert not host.violations


def files_become(host, expected):
    until = time.monotonic() + 30
    while host.files() != expected:
        assert time.monotonic() < until, host.files()
        time.sleep(0.02)


pytestmark = pytest.mark.timeout(300)  # it waits for events and has no time limit

EDIT = {
    "prompt": "greener",
    "image": {"root": "user-folder", "path": "in.png"},
    "options": {"model": "sd3.5-medium", "steps": 2, "output": {"mode": "inline"}},
}
SAVE = {"prompt": "a lake", "options": {"model": "pocket", "steps": 1, "output": {"path": "out.png"}}}


@pytest.mark.parametrize(
    ("held", "method", "params"),
    [
        (("open_root",), "image.generate", SAVE),
        (("create_anonymous", "create_named"), "image.generate", SAVE),
        (("write",), "image.generate", SAVE),
        (("sync",), "image.generate", SAVE),
        (("open_read",), "image.edit", EDIT),
        (("read",), "image.edit", EDIT),
    ],
)
@pytest.mark.quick_cases("held0", "held4")
def test_a_job_that_waits_for_a_file_is_cancelled_at_once_and_leaves_nothing(spawned, held, method, params):
    host = spawned(*held)
    host.hold()
    call = host.start(method, params)
    host.wait_until_held()
    call.cancel()
    error = error_of(call)
    assert (error.kind, error.data["images"]) == ("RequestCancelled", [])
    # the engine and other calls go on while the thread hangs
    inline = {"prompt": "a lake", "options": {"model": "pocket", "steps": 1, "output": {"mode": "inline"}}}
    assert host.call("image.generate", inline, timeout=50)["images"]
    host.let_go()
    other = host.generate(steps=1, output={"path": "other.png"})
    assert other["images"]
    files_become(host, ["in.png", "other.png"])
    assert "Traceback" not in host.log()


@pytest.mark.slow
def test_a_pick_that_hangs_is_cancelled_and_many_of_them_hold_up_nothing_else(spawned):
    host = spawned("open_root")
    host.hold()
    params = {"path": str(host.folder / "in.png"), "access": "read"}
    calls = [host.start("host.pickFile", params) for _ in range(40)]
    host.wait_until_held(16)
    inline = {"prompt": "a lake", "options": {"model": "pocket", "steps": 1, "output": {"mode": "inline"}}}
    assert host.call("image.generate", inline, timeout=50)["images"]
    for call in calls:
        call.cancel()
    assert {error_of(call).kind for call in calls} == {"RequestCancelled"}
    host.let_go()
    handle = host.call("host.pickFile", params, timeout=50)["handle"]
    image = {"image": {"handle": handle}}
    assert host.call("image.edit", EDIT | image, timeout=50)["images"]


@pytest.mark.parametrize(
    ("held", "method", "params"), [("sync", "image.generate", SAVE), ("open_read", "image.edit", EDIT)]
)
@pytest.mark.slow
def test_the_session_ends_while_a_file_hangs(spawned, held, method, params):
    host = spawned(held)
    host.hold()
    call = host.start(method, params)
    host.wait_until_held()
    assert host.call("shutdown", timeout=50) == {}
    assert error_of(call).kind == "RequestCancelled"
    host.notify("exit")
    assert host.process.wait(50) == 0
    assert host.files() == ["in.png"]
