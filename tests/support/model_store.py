"""What the store's tests share: small real models, catalogue entries for them, downloads from the fake hub."""

import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.models.catalogue import Entry
from locara_sidecar.models.downloads.download import Download
from locara_sidecar.models.downloads.transfer import RetryPolicy
from locara_sidecar.models.imports.importing import import_model

NO_TOKEN: Any = False
"""huggingface_hub's way of saying: use no token, not even the user's own."""
QUICK = RetryPolicy(
    connect=2, read=0.5, tries=3, good=1 << 20, first_wait=0.01, longest_wait=0.02, window=0.3, crawl=4096
)
POCKET = json.loads(
    (Path(__file__).parents[2] / "sidecar/locara_sidecar/models/catalogue/pocket.json").read_text(encoding="utf-8")
)
REVISION = "c0ffee" * 6 + "c0ff"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
"""A file of :func:`write_model`."""


def safetensors(size: int, seed: int | str = 0, name: str = "weight") -> bytes:
    """Return a well-formed file with one tensor of ``size`` random bytes."""
    header = json.dumps({name: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


def write_model(
    folder: Path, *, t5: int | str = 1, size: int = 60_000, seed: int = 0, extra: dict[str, bytes | None] | None = None
) -> Path:
    """Write a folder in diffusers' layout. ``t5`` seeds the text encoder, so that models can share it."""
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "text_encoder": ["transformers", "T5EncoderModel"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    files: dict[str, bytes | None] = {
        "model_index.json": json.dumps(index).encode(),
        "text_encoder/config.json": b'{"a": 1}',
        "text_encoder/model.safetensors": safetensors(2 * size, seed=("t5", t5).__repr__()),
        "transformer/config.json": json.dumps({"seed": seed}).encode(),
        WEIGHTS: safetensors(size, seed=("main", seed).__repr__()),
        **(extra or {}),
    }
    for path, data in files.items():
        if data is not None:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return folder


def take(store, folder, entry=None):
    return import_model(store, entry or entry_for(), folder, lambda _: None)


def hf_cache(root, model):
    """Create the layout that huggingface_hub uses: blobs, and snapshots of links to them."""
    repository = root / "models--org--mine"
    for path in sorted(model.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link = repository / "snapshots" / REVISION / path.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return repository


def entry_data(model_id="mine", repository="org/mine", **changes):
    source = {"repository": repository, "files": ["*.json", "*.txt", "*.safetensors"]}
    return {**POCKET, "id": model_id, "order": 5, "source": source, **changes}


def entry_for(model_id="mine", repository="org/mine", **changes):
    return msgspec.convert(entry_data(model_id, repository, **changes), Entry)


def download(store, hub, entry=None, told=None, patience=QUICK, token=None, **more):
    tell = (lambda _: None) if told is None else told.append
    return Download(
        store, entry or entry_for(), tell=tell, endpoint=hub.url, patience=patience, token=token or NO_TOKEN, **more
    ).run()


def error_of(function, *arguments, **more):
    try:
        function(*arguments, **more)
    except RpcError as error:
        return error
    raise AssertionError("expected an error")


def whole(store):
    """Require that every visible model is complete and every blob matches its name; return the visible ids."""
    for entry in store.entries():
        for file in entry.meta.files:
            data = (entry.folder / file.path).read_bytes()
            assert len(data) == file.size
            assert hashlib.sha256(data).hexdigest() == file.sha256, file.path
    for folder in store.models.iterdir() if store.models.exists() else ():
        assert store.entry(folder.name) is not None, f"{folder.name} is visible and no model"
    for blob in store.blobs.iterdir() if store.blobs.exists() else ():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    return sorted(name for entry in store.entries() for name in entry.meta.ids)
