"""The model store: import from a folder, verification, use, removal and collection, each in the check's own cache.

The imported model has a few bytes: the fake engine checks nothing. Downloads need a hub and are not tested.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.groups.pictures import ENTRY, catalogue
from locara_conformance.lab import at, expect, manifest

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer

MODEL = "conformance-sd3"


def _store(lab: Lab) -> Peer:
    cache = lab.root / f"cache-{len(list(lab.root.iterdir()))}"
    flags = ("--allow-model-management", "--allow-downloads", "--cache-dir", str(cache))
    entry = ENTRY | {"id": MODEL}
    return lab.session(*flags, "--catalogue", catalogue(lab, entry), opening={"manifest": manifest("pocket", MODEL)})


def _model(lab: Lab, value: float = 0.0, name: str = "model") -> Path:
    """Create a folder in diffusers' layout with a single number as its weights."""
    folder = lab.root / name
    classes = {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"}
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    for part in classes:
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text("{}")
        weights = struct.pack("<Q", len(header)) + header + struct.pack("<f", value)
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    index = {"_class_name": "StableDiffusion3Pipeline"} | {part: ["diffusers", name] for part, name in classes.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _import(peer: Peer, folder: Path, **more: Any) -> dict[str, Any]:
    return peer.call("models.import", {"model": MODEL, "from": str(folder)} | more, timeout=30)


def _kept(peer: Peer) -> list[str]:
    return [at(one, "digest") for one in at(peer.call("models.usage"), "entries", list)]


@check("store.import", "MOD-16 MOD-11 MOD-23 MOD-22 MOD-27")
def _whole(lab: Lab) -> None:
    peer = _store(lab)
    peer.refused("ModelNotInstalled", "models.verify", {"model": MODEL})
    folder = _model(lab)
    call = peer.start("models.import", {"model": MODEL, "from": str(folder)}, stream=True)
    result = call.result(30)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    told = (at(result, "files"), at(result, "bytes"))
    expect(told == (len(sizes), sum(sizes)), f"{len(sizes)} files of {sum(sizes)} bytes are reported as {told}")
    phases = list(dict.fromkeys(at(one, "phase", str) for one in call.messages()))
    expect(phases == ["reading", "verifying", "publishing"], f"the phases that were reported are {phases}")
    expect(_kept(peer) == [at(result, "digest")], f"models.usage shows {_kept(peer)}")
    told = peer.call("models.get", {"model": MODEL})
    expect(at(told, "digest") == at(result, "digest"), "models.get gives a different digest from the import")
    verified = peer.call("models.verify", {"model": MODEL}, timeout=30)
    expect(at(verified, "ok") is True and at(verified, "files") == at(result, "files"), f"verified: {verified}")


@check("store.not-installed", "ERR-12")
def _not_installed(lab: Lab) -> None:
    error = _store(lab).refused("ModelNotInstalled", "models.verify", {"model": MODEL})
    expect(at(error, "data.model") == MODEL, f"`data.model` is {at(error, 'data.model')!r}")


@check("store.again", "MOD-4")
def _again(lab: Lab) -> None:
    peer = _store(lab)
    first = _import(peer, _model(lab))
    expect(_import(peer, _model(lab)) == first, "importing the same folder again gets a different answer")
    other = _model(lab, 1.0, "other")
    error = peer.refused("StorageError", "models.import", {"model": MODEL, "from": str(other)})
    expect(at(error, "data.errno") == "EEXIST", f"`data.errno` is {at(error, 'data.errno')!r}")
    expect(at(error, "data.digest") == at(first, "digest"), "`data.digest` is not the installed model's")
    expect(_kept(peer) == [at(first, "digest")], "an import that was refused changed what is installed")
    replaced = _import(peer, other, replace=True)
    expect(_kept(peer) == [at(replaced, "digest")], "with `replace`, the new model did not replace the old one")


@check("store.refused", "MOD-5")
def _refused(lab: Lab) -> None:
    peer = _store(lab)
    for what in ("weights", "index"):
        folder = _model(lab, name=f"broken-{what}")
        (folder / ("vae/diffusion_pytorch_model.safetensors" if what == "weights" else "model_index.json")).unlink()
        answer = peer.start_any("models.import", {"model": MODEL, "from": str(folder)}).answer(30)
        expect("error" in answer, f"a folder without its {what} was imported")
        used = peer.call("models.usage")
        expect(at(used, "entries") == [] and at(used, "bytes") == 0, f"after a refused import there is {used}")


@check("store.incomplete", "ERR-13")
def _incomplete(lab: Lab) -> None:
    folder = _model(lab, name="incomplete")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    _store(lab).refused("ModelIncomplete", "models.import", {"model": MODEL, "from": str(folder)})


@check("store.own-folder", "MOD-6")
def _own_folder(lab: Lab) -> None:
    error = _store(lab).refused("InvalidParams", "models.import", {"model": "pocket", "from": str(_model(lab))})
    expect(at(error, "data.path") == "$.model", f"`data.path` is {at(error, 'data.path')!r}")


@check("store.damaged", "MOD-17 ERR-14")
def _damaged(lab: Lab) -> None:
    peer = _store(lab)
    _import(peer, _model(lab))
    path = Path(at(peer.call("models.get", {"model": MODEL}), "path", str))
    weights = next(path.rglob("vae/*.safetensors"), path).resolve()
    expect(weights.is_file(), "there are no weights at the path that models.get gives")
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    error = peer.refused("IntegrityError", "models.verify", {"model": MODEL})
    files = at(error, "data.files")
    expect(isinstance(files, list) and len(files) > 0, "`data.files` does not name the damaged file")  # pyright: ignore[reportUnknownArgumentType]
    peer.refused("ModelNotInstalled", "models.verify", {"model": MODEL})


@check("store.gc", "MOD-18 MOD-28")
def _gc(lab: Lab) -> None:
    peer = _store(lab)
    digest = at(_import(peer, _model(lab)), "digest")
    expect(at(peer.call("models.gc"), "removed") == [], "collecting without `maxBytes` removed a model")
    tried = peer.call("models.gc", {"maxBytes": 0, "dryRun": True})
    expect(at(tried, "removed.0.digest") == digest, f"a dry run of all would remove {tried}")
    expect(_kept(peer) == [digest], "a dry run removed something")
    done = peer.call("models.gc", {"maxBytes": 0})
    expect(done == tried, f"it removed {done}, the dry run reported {tried}")
    expect(_kept(peer) == [], "what was collected is still there")


@check("store.remove", "MOD-19")
def _remove(lab: Lab) -> None:
    peer = _store(lab)
    digest = at(_import(peer, _model(lab)), "digest")
    removed = peer.call("models.remove", {"model": MODEL, "dryRun": True})
    expect(_kept(peer) == [digest], "a dry run removed something")
    expect(peer.call("models.remove", {"model": MODEL}) == removed, "removing reports something else than its dry run")
    expect(_kept(peer) == [], "what was removed is still there")
    peer.refused("ModelNotInstalled", "models.verify", {"model": MODEL})


@check("store.download", "ERR-15 MOD-21")
def _download(lab: Lab) -> None:
    peer = _store(lab)
    peer.refused("DownloadFailed", "models.download", {"model": MODEL})
    result = peer.call("models.download", {"model": "pocket"}, timeout=30)
    verified = peer.call("models.verify", {"model": "pocket"}, timeout=30)
    expect(at(result, "digest") == at(verified, "digest"), "what is already there is reported with a different digest")
    expect(at(result, "files") == at(verified, "files"), "what is already there is reported with other files")
