"""What a call is the first to need is imported before the event loop looks at it: by a thread, or ahead."""

import json
import os

import pytest

from locara_protocol.client import RemoteError
from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
from support.every_call import notes, watched
from support.host import eventually, manifest
from support.method_params import PARAMS
from support.model_store import entry_data, write_model

FIRST = PARAMS | {
    "models.get": {"model": "mine"},
    "models.import": {"model": "mine", "from": "SOURCE"},
    "models.download": {"model": "mine"},
    "models.prepare": {"model": "mine", "quantization": "4bit"},
    "models.remove": {"model": "mine"},
    "image.edit": {"prompt": "a lake", "image": {"handle": "file-0"}, "options": {"model": "pocket"}},
    "host.pickFile": {"name": "a.png", "data": "", "access": "read"},
    "shutdown": {},
}
MISTAKES = {
    "misspelt": ("image.generate", {"promt": "a lake"}),
    "unpicked_target": (
        "image.generate",
        {"prompt": "a lake", "options": {"model": "pocket", "output": {"handle": "file-0"}}},
    ),
    "path": ("image.edit", {"prompt": "a lake", "image": {"root": "user-folder", "path": "../a.png"}}),
    "descriptor": ("host.pickFile", {"name": "a.png", "descriptor": "file-1", "access": "write"}),
    "model": ("models.download", {"model": "none"}),
    "twice": ("initialize", {"protocolVersion": 1}),
}


@pytest.fixture
def daemon(tmp_path):
    """A watched daemon in which only its event loop has begun."""
    (tmp_path / "catalogue").mkdir()
    write_model(tmp_path / "source")
    (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(entry_data("mine")))
    with watched(tmp_path, DOWNLOADS, MANAGEMENT, env={"HF_ENDPOINT": "http://127.0.0.1:9"}) as sidecar:
        sidecar.call("ping", timeout=30)
        assert eventually((tmp_path / "notes").exists)
        yield sidecar
    assert notes(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "params"), [*FIRST.items(), *MISTAKES.values()], ids=[*FIRST, *MISTAKES])
def test_what_the_first_call_needs_is_imported_off_the_event_loop(daemon, tmp_path, method, params):
    """Also the token of ``initialize``."""
    roots = {"user-folder": "read-write", "user-selected": "read-write", "app-data": "read-write"}
    app = manifest("pocket", "mine", fs=roots, modalities=("text-to-image", "image-to-image"))
    grants = {"user-folder": str(tmp_path), "app-data": str(tmp_path)}
    daemon.initialize(manifest=app, grants=grants, processId=os.getpid(), auth={"token": "hf_of_nobody"})
    if params.get("from"):
        params = params | {"from": str(tmp_path / "source")}
    try:
        daemon.call(method, params, timeout=50)
    except RemoteError as error:
        assert error.kind != "InternalError"  # noqa: PT017  that it fails is not the point
