"""A real daemon with its engine, killed and cancelled: what a host would see."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from locara_protocol.client import RemoteError, Sidecar

if TYPE_CHECKING:
    from collections.abc import Generator

PROMPT = "a large blue star in the center, white background"
_PATIENCE = 120.0  # seconds
_MANIFEST = {
    "schema": "locara/v1",
    "name": "check-mac",
    "publisher": "locara",
    "version": "1.0.0",
    "modalities": ["text-to-image"],
    "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}},
}


def kill_daemon(engine: str = "auto") -> dict[str, Any]:
    """SIGKILL for the daemon in the middle of a step: is the engine gone, and how soon?"""
    with tempfile.TemporaryDirectory() as folder:
        sidecar = _opened(folder, engine)
        call = sidecar.start("image.generate", _asked(60), stream=True)
        _until_step(call.messages(), 2)
        pid = int(sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"])
        daemon = psutil.Process(pid).ppid()
        began = time.monotonic()
        os.kill(daemon, signal.SIGKILL)
        gone = _gone(pid)
        seconds = time.monotonic() - began
        sidecar.close()
    return {"ok": gone, "seconds": round(seconds, 3)}


def cancel_in_step(engine: str = "auto") -> dict[str, Any]:
    """A cancel in the middle of a step: is it the same engine that makes the next picture?"""
    with tempfile.TemporaryDirectory() as folder:
        sidecar = _opened(folder, engine)
        with sidecar:
            call = sidecar.start("image.generate", _asked(60), stream=True)
            _until_step(call.messages(), 2)
            before = sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"]
            began = time.monotonic()
            call.cancel()
            try:
                call.result(_PATIENCE)
                kind = "finished"
            except RemoteError as error:
                kind = error.kind
            seconds = time.monotonic() - began
            made = sidecar.call("image.generate", _asked(4), timeout=_PATIENCE)
            after = sidecar.call("ping", timeout=_PATIENCE)["engine"]["pid"]
            exists = Path(made["images"][0]["path"]).is_file()
            told = sidecar.call("system.info", timeout=_PATIENCE)
    return {
        "ok": kind == "RequestCancelled" and before == after and exists,
        "kind": kind,
        "seconds": round(seconds, 3),
        "sameEngine": before == after,
        "memory": told["memory"],
        "sandbox": told["sandbox"],
        "timings": made.get("timings"),
        "peakMemoryBytes": made.get("peakMemoryBytes"),
    }


def _opened(folder: str, engine: str) -> Sidecar:
    sidecar = Sidecar([sys.executable, "-m", "locara_sidecar", "serve", "--engine", engine], own_group=True)
    sidecar.initialize(manifest=_MANIFEST, grants={"user-folder": folder})
    return sidecar


def _asked(steps: int) -> dict[str, Any]:
    return {"prompt": PROMPT, "options": {"steps": steps}}


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
