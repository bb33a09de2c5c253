"""The examples of the OpenRPC document: the order in which they form a session, and which parts of an answer vary."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from locara_protocol.client import Sidecar

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "/Users/a/Pictures"
"""Stands for the folder that the host grants, in the examples."""

_MANIFEST = {
    "schema": "locara/v1",
    "name": "studio",
    "publisher": "example",
    "version": "1.0.0",
    "modalities": ["text-to-image", "image-to-image"],
    "capabilities": {
        "models": ["pocket"],
        "fs": {"user-folder": "read-write", "user-selected": "read"},
        "net": False,
    },
}
_OPTIONS = {"model": "pocket", "steps": 4, "seed": 7, "output": {"path": "red.png"}}

REQUESTS: dict[str, dict[str, Any]] = {
    "initialize": {
        "protocolVersion": 1,
        "clientInfo": {"name": "studio", "version": "1.0.0"},
        "manifest": _MANIFEST,
        "grants": {"user-folder": FOLDER},
    },
    "ping": {},
    "image.generate": {"prompt": "a red circle", "channel": 7, "options": _OPTIONS},
    "image.edit": {
        "prompt": "a green circle",
        "image": {"root": "user-folder", "path": "red.png"},
        "options": {**_OPTIONS, "strength": 0.5, "output": {"path": "green.png"}},
    },
    "jobs.list": {},
    "jobs.attach": {"jobId": "job-1", "channel": "__CHANNEL__:8"},
    "jobs.result": {"jobId": "job-1"},
    "image.cancel": {"jobId": "job-1"},
    "host.pickFile": {"path": f"{FOLDER}/red.png", "access": "read"},
    "host.releaseFile": {"handle": "0f1e2d3c4b5a69788796a5b4c3d2e1f0"},
    "audit.capabilityLog": {"limit": 2},
    "models.load": {"model": "pocket", "quantization": "none"},
    "models.verify": {"model": "pocket"},
    "models.unload": {},
    "shutdown": {},
}
"""Method to params, in an order in which they form a session with the fake engine."""

WITHOUT = {
    "rpc.discover": "its answer is the document",
    "system.info": "each machine's own",
    "models.list": "long, and each machine's own",
    "models.get": "long, and each machine's own",
    "models.usage": "the cache's own",
    "models.download": "needs the network",
    "models.import": "needs a folder with a model",
    "models.prepare": "needs the MLX engine",
    "models.remove": "needs a model in the cache",
    "models.gc": "needs a host that allows it",
}
"""Methods without an example, and why."""

VARIES = frozenset(
    {
        *("version", "uptimeMs", "pid", "lastProgressMs", "elapsedMs", "etaMs", "peakMemoryBytes", "memoryBytes"),
        *("timings", "time", "handle", "sha256", "bytes", "methods"),
    }
)
"""Members whose value changes each time or with the version; only their types are compared."""


def play(folder: Path, requests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Send ``requests`` to the real daemon one after the other; return the results, with ``folder`` in place of
    FOLDER."""

    def moved(value: Any, old: str, new: str) -> Any:
        return json.loads(json.dumps(value).replace(old, new))

    with Sidecar([sys.executable, "-m", "locara_sidecar", "serve", "--engine", "fake"]) as sidecar:
        return {
            method: moved(sidecar.call(method, moved(params, FOLDER, str(folder)), timeout=50), str(folder), FOLDER)
            for method, params in requests.items()
        }


def masked(value: Any) -> Any:
    """Return ``value`` with types in place of what varies, and without the pictures of a job's last state."""
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: member for name, member in value.items() if not (name == "preview" and "data" in member)}
    return {name: type(member).__name__ if name in VARIES else masked(member) for name, member in kept.items()}
