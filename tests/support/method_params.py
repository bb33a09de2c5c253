"""One valid call of each method that has required parameters, with the sidecar's own model."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from locara_protocol.methods import METHODS


def _picture() -> dict[str, str]:
    out = io.BytesIO()
    Image.new("RGB", (128, 128)).save(out, "PNG")
    return {"data": base64.b64encode(out.getvalue()).decode(), "mimeType": "image/png"}


_DRAWING: dict[str, Any] = {"prompt": "a lake", "options": {"model": "pocket", "steps": 1}}
_POCKET = {"model": "pocket"}
REQUIRED: dict[str, dict[str, Any]] = {
    "image.generate": _DRAWING,
    "image.edit": {**_DRAWING, "image": _picture()},
    "image.cancel": {"jobId": "job-0"},
    "jobs.attach": {"jobId": "job-0", "channel": 7},
    "jobs.result": {"jobId": "job-0"},
    "host.pickFile": {"path": "/nowhere/at/all.png", "access": "write"},
    "host.releaseFile": {"handle": "file-" + "0" * 32},
    "models.get": _POCKET,
    "models.download": _POCKET,
    "models.verify": _POCKET,
    "models.import": {**_POCKET, "from": "/nowhere/at/all"},
    "models.load": _POCKET,
    "models.prepare": {**_POCKET, "quantization": "4bit"},
    "models.remove": _POCKET,
}
"""A new method must be added here if it requires parameters."""

PARAMS = {method: REQUIRED.get(method, {}) for method in METHODS if method not in ("initialize", "shutdown")}
"""By method; without those that open and end a session."""
