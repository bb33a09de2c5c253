"""Drives a real daemon with its engine: kills it, cancels jobs and gives it files, and records what a host would
see."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PIL import Image

from locara_protocol.client import Call, RemoteError, Sidecar
from locara_protocol.image_messages import MAX_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

PROMPT = "a large blue star in the center, white background"
_PATIENCE = 120.0  # seconds
_MANIFEST = {
    "schema": "locara/v1",
    "name": "check-mac",
    "publisher": "locara",
    "version": "1.0.0",
    "modalities": ["text-to-image", "image-to-image"],
    "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write", "user-selected": "read-write"}},
}


def kill_daemon(engine: str = "auto") -> dict[str, Any]:
    """SIGKILL the daemon in the middle of a step: is the engine gone, and how soon?"""
    with tempfile.TemporaryDirectory() as folder, _opened(folder, engine) as sidecar:
        call = sidecar.start("image.generate", _asked(MAX_STEPS), stream=True)
        _until_step(call.messages(), 2)
        pid = int(sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"])
        daemon = psutil.Process(pid).ppid()
        began = time.monotonic()
        os.kill(daemon, signal.SIGKILL)
        gone = _gone(pid)
        seconds = time.monotonic() - began
    return {"ok": gone, "seconds": round(seconds, 3)}


def cancel_in_step(engine: str = "auto") -> dict[str, Any]:
    """Cancel in the middle of a step: does the same engine make the next picture?"""
    with tempfile.TemporaryDirectory() as folder, _opened(folder, engine) as sidecar:
        call = sidecar.start("image.generate", _asked(MAX_STEPS), stream=True)
        _until_step(call.messages(), 2)
        before = sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"]
        began = time.monotonic()
        kind = _cancelled(call)
        seconds = time.monotonic() - began
        made = sidecar.call("image.generate", _asked(4), timeout=_PATIENCE)
        after = sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"]
        exists = Path(made["images"][0]["path"]).is_file()
        told = sidecar.call("system.info", timeout=_PATIENCE)
        size = psutil.Process(int(after)).memory_info().rss
    return {
        "ok": kind == "RequestCancelled" and before == after and exists,
        "kind": kind,
        "seconds": round(seconds, 3),
        "sameEngine": before == after,
        "model": made.get("model"),
        "memory": told["memory"],
        "residentSize": size,
        "sandbox": told["sandbox"],
        "timings": made.get("timings"),
        "peakMemoryBytes": made.get("peakMemoryBytes"),
    }


def open_files(folder: Path, before: Sequence[str] = (), engine: str = "auto") -> dict[str, Any]:
    """Read a picture from an open file and write another to an open file; also check whether the sidecar can open the
    first one by path. ``before`` is put in front of the sidecar's command."""
    source, out = folder / "in.png", folder / "out.png"
    Image.new("RGB", (128, 128), (30, 90, 200)).save(source)
    out.touch()
    command = [*before, sys.executable, "-m", "locara_sidecar", "serve", "--engine", engine]
    with (
        Sidecar(command, own_group=True, hands_files=True) as sidecar,
        source.open("rb") as read,
        out.open("r+b") as write,
    ):
        sidecar.initialize(manifest=_MANIFEST)
        sandbox = sidecar.call("system.info", timeout=_PATIENCE)["sandbox"]
        try:
            sidecar.pick_file(source, "read")
            by_path: Any = "opened"
        except RemoteError as error:
            by_path = [error.kind, error.data.get("errno")]
        image = sidecar.pick_open_file("in.png", read.fileno(), "read")["handle"]
        saved = sidecar.pick_open_file("out.png", write.fileno(), "write")["handle"]
        asked = {**_asked(4), "image": {"handle": image}}
        asked["options"] |= {"output": {"handle": saved}}
        made = sidecar.call("image.edit", asked, timeout=_PATIENCE)["images"][0]
    with Image.open(out) as picture:
        whole = picture.size == (made["width"], made["height"])
    return {"ok": whole, "byPath": by_path, "bytes": out.stat().st_size, "sandbox": sandbox}


def awake_while_drawing(assertions: Callable[[], str], engine: str = "auto") -> dict[str, Any]:
    """Report what the system lists as keeping it awake before, during and after a job, and what the sidecar says about
    power."""
    with tempfile.TemporaryDirectory() as folder, _opened(folder, engine) as sidecar:
        told = [assertions()]
        call = sidecar.start("image.generate", _asked(MAX_STEPS), stream=True)
        _until_step(call.messages(), 2)
        told.append(assertions())
        power = sidecar.call("system.info", timeout=_PATIENCE).get("power")
        call.cancel()
        with contextlib.suppress(RemoteError):
            call.result(_PATIENCE)
        told.append(assertions())
    return {"before": told[0], "during": told[1], "after": told[2], "power": power}


def cancel_while_asked(folder: Path, engine: str = "auto", after: float = 5.0) -> dict[str, Any]:
    """Draw a picture for a folder that the system asks the user about; cancel it after that many seconds, while the
    question is open, and end the session. Neither may wait for the user."""
    with _opened(str(folder), engine) as sidecar:
        call = sidecar.start("image.generate", _asked(2), stream=True)
        time.sleep(after)
        began = time.monotonic()
        kind = _cancelled(call)
        answered = time.monotonic() - began
        status = sidecar.close()
    return {
        "ok": kind in {"RequestCancelled", "finished"} and status == 0,
        "kind": kind,
        "seconds": round(answered, 3),
        "closedAfter": round(time.monotonic() - began - answered, 3),
        "status": status,
    }


def _opened(folder: str, engine: str) -> Sidecar:
    sidecar = Sidecar([sys.executable, "-m", "locara_sidecar", "serve", "--engine", engine], own_group=True)
    try:
        sidecar.initialize(manifest=_MANIFEST, grants={"user-folder": folder})
    except BaseException:
        sidecar.close()
        raise
    return sidecar


def _asked(steps: int) -> dict[str, Any]:
    return {"prompt": PROMPT, "options": {"steps": steps}}


def _cancelled(call: Call) -> str:
    """Cancel a call; return the kind of the error that it ends with."""
    call.cancel()
    try:
        call.result(_PATIENCE)
    except RemoteError as error:
        return error.kind
    return "finished"


def _until_step(messages: Generator[dict[str, Any]] | Any, step: int) -> None:
    for message in messages:
        if message.get("phase") == "denoising" and message.get("step", 0) >= step:
            return


def _gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(_PATIENCE)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True
