"""A denial on the wire says what lifts it: with that in the manifest and the grants, the same call is served."""

import copy
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.client import RemoteError
from locara_protocol.manifest import merge
from support.granted_folders import manifest

PARTS = ("modality", "model", "fs", "grant")


def declared(parts: set[str]) -> dict[str, Any]:
    whole = manifest(**({"fs": {"user-folder": "write"}} if "fs" in parts else {}))
    if "model" not in parts:
        del whole["capabilities"]["models"]
    if "modality" not in parts:
        del whole["modalities"]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing", [{"modality"}, {"model"}, {"fs"}, {"grant"}, set(PARTS)], ids=lambda missing: " ".join(sorted(missing))
)
def test_what_a_denial_declares_and_asks_of_the_host_is_enough(hosts: Any, tmp_path: Path, missing: set[str]):
    parts = set(PARTS) - missing
    host = hosts.spawn()
    grants = {"user-folder": str(host.folder)}
    app = declared(parts)
    host.initialize(manifest=copy.deepcopy(app), grants=grants if "grant" in parts else {})
    with pytest.raises(RemoteError) as caught:
        host.generate(steps=1)
    data = caught.value.data
    assert (caught.value.kind, data["reason"]) == (
        "CapabilityDenied",
        "noHostGrant" if missing == {"grant"} else "notDeclared",
    )
    assert [entry["decision"] for entry in host.call("audit.capabilityLog")["entries"]] == ["deny"]
    assert set(data.get("host", {}).get("grants", {})) == ({"user-folder"} if "grant" in missing else set())
    mended = hosts.spawn(folder=host.folder)
    mended.initialize(manifest=merge(app, data.get("declare", {})), grants=grants)
    assert mended.generate(steps=1)["images"]
