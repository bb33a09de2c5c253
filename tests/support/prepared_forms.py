"""A prepared form of a model, as an engine passes it to the store."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

import msgspec

from locara_sidecar.ipc.frames import PREPARED_LAYOUT
from locara_sidecar.models.cache.staging import Staging
from locara_sidecar.models.cache.store import DerivedFrom
from locara_sidecar.models.imports import derive
from locara_sidecar.models.imports.derive import Derivation
from support.model_store import entry_for, safetensors

WEIGHTS = "transformer/model-00001-of-00001.safetensors"


def quiet(_):
    pass


def made_files(bits="4bit", seed=5):
    return {
        "transformer/config.json": json.dumps({"quantization": {"bits": int(bits[0])}}).encode(),
        WEIGHTS: safetensors(20_000, seed=f"{bits}{seed}", name="blocks.0.scales"),
    }


def origin(digest: str, bits: Literal["8bit", "4bit"] = "4bit", **changes: Any) -> DerivedFrom:
    return msgspec.structs.replace(
        DerivedFrom(
            digest=digest, model="mine", engine="mlx", quantization=bits, precision="bfloat16", layout=PREPARED_LAYOUT
        ),
        **changes,
    )


@contextlib.contextmanager
def making(store, source, digest, files=None, bits: Literal["8bit", "4bit"] = "4bit", **changes):
    """Return what an engine has just made from the model in ``source``."""
    with Staging(store) as stage:
        (stage.folder / "made").mkdir()
        for path, data in (made_files(bits) if files is None else files).items():
            file = stage.folder / "made" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        yield Derivation(
            folder=str(stage.folder),
            source=str(source),
            components=["transformer"],
            derived_from=origin(digest, bits, **changes),
        )


def prepare(store, model, files=None, bits: Literal["8bit", "4bit"] = "4bit", **changes):
    with making(store, model.folder, model.meta.digest, files, bits, **changes) as made:
        return derive.publish(store, entry_for(), made, quiet)
