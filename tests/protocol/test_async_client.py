"""The async client against a scripted child and against the daemon, on both of anyio's event loops."""

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from locara_protocol import generate, messages
from locara_protocol import image_messages as images
from locara_protocol.async_client import AsyncSidecar, ProtocolViolationError, RemoteError, SidecarGoneError
from locara_protocol.client import Sidecar
from locara_protocol.clients.decoding import decoded
from locara_protocol.methods import METHODS
from support.host import PROMPT, command, manifest

COMMAND = [sys.executable, "-S", str(Path(__file__).with_name("scripted_sidecar.py"))]


pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """The event loops on which anyio's plugin runs each test."""
    return request.param


@pytest.fixture
async def sidecar(anyio_backend):
    """Run the scripted sidecar."""
    with anyio.fail_after(60):
        async with AsyncSidecar(COMMAND) as sidecar:
            yield sidecar


async def steps(stream):
    return [message["step"] async for message in stream.messages()]


async def test_a_call_returns_its_result_and_closing_returns_the_exit_status(sidecar):
    assert (await sidecar.call("echo", {"a": [1, "é\n"]}))["params"] == {"a": [1, "é\n"]}
    assert (await sidecar.call("echo"))["had"] is False
    assert await sidecar.close() == 0
    assert await sidecar.close() == 0
    with pytest.raises(SidecarGoneError):
        sidecar.start("echo")


async def test_an_error_answer_is_raised_with_code_kind_and_data(sidecar):
    with pytest.raises(RemoteError) as caught:
        await sidecar.call("fail")
    assert (caught.value.code, caught.value.kind, caught.value.retryable) == (-32013, "QueueFull", True)


async def test_messages_come_in_order_and_each_call_has_its_channel(sidecar):
    calls = [sidecar.start("stream", stream=True) for _ in range(3)]
    assert len({call.channel for call in calls}) == 3
    for call in calls:
        assert await steps(call) == [0, 1]
        assert await call.result() == {"done": True}
    assert await steps(sidecar.start("echo")) == []
    assert sidecar.violations == []


@pytest.mark.parametrize("method", ["hole", "miscount", "no-end"])
async def test_a_channel_that_does_not_count_right_is_a_violation(method):
    async with AsyncSidecar(COMMAND) as sidecar:
        call = sidecar.start(method, stream=True)
        with pytest.raises(ProtocolViolationError):
            await steps(call)
        with pytest.raises(ProtocolViolationError):
            await call.result()
        assert len(sidecar.violations) == 1


async def test_a_task_that_is_cancelled_cancels_its_call(sidecar):
    with anyio.move_on_after(0.2) as scope:
        await sidecar.call("wait")
    assert scope.cancelled_caught
    told = await sidecar.call("waiting")
    assert told == {"waiting": []}


async def test_a_cancelled_call_is_answered_and_no_other(sidecar):
    other, call = sidecar.start("wait"), sidecar.start("wait")
    call.cancel()
    with pytest.raises(RemoteError, match="-32800"):
        await call.result()
    with anyio.move_on_after(0.1) as scope:
        await other.result()
    assert scope.cancelled_caught


async def test_an_attached_channel_has_its_messages_before_and_after_the_answer(sidecar):
    for job, due in (("ended", [0]), ("goes on", [0, 1])):
        assert await steps(await sidecar.attach(job)) == due
    with pytest.raises(RemoteError):
        await sidecar.attach("no such job")


async def test_calls_outstanding_when_the_process_ends_are_told_so(sidecar):
    waiting, attached = sidecar.start("wait", stream=True), await sidecar.attach("waits")
    with pytest.raises(SidecarGoneError) as caught:
        await sidecar.call("die")
    assert caught.value.status == 3
    for stream in (waiting, attached):
        with pytest.raises(SidecarGoneError):
            await steps(stream)
    with pytest.raises(SidecarGoneError):
        await waiting.result()
    with pytest.raises(SidecarGoneError):
        await sidecar.call("echo")
    assert await sidecar.close() == 3


async def test_what_is_left_when_the_block_ends_is_told_so():
    async with AsyncSidecar(COMMAND) as sidecar:
        call = sidecar.start("wait", stream=True)
    with pytest.raises(SidecarGoneError):
        await call.result()
    assert sidecar.process.returncode == 0


async def test_a_process_that_will_not_end_is_killed():
    async with AsyncSidecar(COMMAND) as sidecar:
        await sidecar.call("stubborn")
        assert await sidecar.close(timeout=0.2) < 0


async def test_a_command_that_does_not_exist_is_an_os_error():
    with pytest.raises(OSError, match="locara-no-such-command"):
        async with AsyncSidecar(["locara-no-such-command"]):
            pass


async def test_it_draws_with_the_daemon_and_cancels(tmp_path):
    async with AsyncSidecar(command("--engine", "fake"), stderr=subprocess.DEVNULL) as sidecar:
        await sidecar.initialize(manifest(), {"user-folder": str(tmp_path)})
        pong = await sidecar.request("ping")
        assert isinstance(pong, messages.PingResult)
        call = sidecar.start(
            "image.generate", {"prompt": PROMPT, "options": {"steps": 3, "output": {"path": "a.png"}}}, stream=True
        )
        told = [message async for message in call.messages()]
        result = decoded("image.generate", await call.result())
        assert isinstance(result, images.GenerateResult)
        assert (told[-1]["progress"], result.images[0].relative_path) == (1, "a.png")
        with anyio.move_on_after(1):
            await sidecar.call("image.generate", {"prompt": f"fake:slow=20000 {PROMPT}"})
        cancelled = (await sidecar.request("jobs.list")).jobs[0].job_id
        with anyio.fail_after(20):
            assert [message async for message in (await sidecar.attach(cancelled)).messages()] != []
        jobs = (await sidecar.request("jobs.list")).jobs
        assert [one.state for one in jobs] == ["cancelled", "done"]
        assert sidecar.violations == []


# --- typed results ---


@pytest.mark.slow
def test_results_are_of_the_types_of_the_table(tmp_path):
    with Sidecar(command("--engine", "fake"), stderr=subprocess.DEVNULL) as sidecar:
        sidecar.initialize(manifest(), {"user-folder": str(tmp_path)})
        pong = sidecar.request("ping", timeout=20)
        assert isinstance(pong, messages.PingResult)
        listed = sidecar.request("models.list", timeout=20)
        assert [one.id for one in listed.models] == ["pocket"]
        params = images.GenerateParams(prompt=PROMPT, options=images.GenerateOptions(steps=1, seed=5))
        drawn = sidecar.request("image.generate", params, timeout=50)
        assert (drawn.images[0].seed, drawn.parameters["prompt"]) == (5, PROMPT)


def test_a_result_of_another_type_is_a_violation_and_further_members_are_not():
    assert decoded("models.unload", {"unloaded": True, "later": 1}).unloaded is True
    with pytest.raises(ProtocolViolationError, match=r"models\.unload.*unloaded"):
        decoded("models.unload", {"unloaded": 1})


def test_each_method_but_discovery_has_its_types():
    for name in ("typed_calls", "typed_async_calls"):
        source = Path(images.__file__).with_name("clients").joinpath(f"{name}.py").read_text()
        assert [one for one in METHODS if f'Literal["{one}"]' not in source] == ["rpc.discover"]


def test_the_generated_modules_are_fresh_and_stale_ones_are_told(tmp_path):
    names = ["typed_calls.py", "typed_async_calls.py"]
    assert generate.modules(write_them=False) == []
    assert generate.modules(write_them=False, folder=tmp_path) == names
    assert generate.modules(write_them=True, folder=tmp_path) == names
    assert generate.modules(write_them=False, folder=tmp_path) == []


async def test_files_that_the_sidecar_may_not_open_are_handed_over(anyio_backend, tmp_path):
    del anyio_backend
    (tmp_path / "a.png").write_bytes(b"a picture")
    async with AsyncSidecar(command("--engine", "fake"), hands_files=True, stderr=subprocess.DEVNULL) as sidecar:
        await sidecar.initialize(manifest=manifest(fs={"user-selected": "read"}))
        assert (await sidecar.pick_bytes("a.png", b"bytes"))["bytes"] == 5
        with (tmp_path / "a.png").open("rb") as opened:
            picked = [await sidecar.pick_open_file("a.png", opened.fileno(), "read") for _ in range(3)]
        assert [one["bytes"] for one in picked] == [9, 9, 9]
    with pytest.raises(SidecarGoneError), (tmp_path / "a.png").open("rb") as opened:
        await sidecar.pick_open_file("a.png", opened.fileno(), "read")
    async with AsyncSidecar(command("--engine", "fake"), stderr=subprocess.DEVNULL) as plain:
        with pytest.raises(RuntimeError, match="hands_files"):
            await plain.pick_open_file("a.png", 0, "read")
