"""Unusual values for the members of a configuration, one at a time, and what the shared check says about each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from locara_sidecar.engine.folder import folder_check, model_folder
from locara_sidecar.engine.folder.config_members import CLASSES
from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "null": None,
    "a word": "word",
    "a list": [],
    "an object": {},
    "true": True,
    "minus one": -1,
    "zero": 0,
    "one": 1,
    "a fraction": 1.5,
    "huge": 150_000_000,
    "two to the 31st": 2**31,
    "two to the 63rd": 2**63,
    "past every number": 10**400,
    "a huge fraction": 1e300,
    "the largest fraction": 1e308,
    "the smallest fraction": -1e308,
    "next to nothing": 5e-324,
    "not a number": float("nan"),
    "infinite": float("inf"),
}
ABSURD = (
    "huge", "two to the 31st", "two to the 63rd", "past every number", "a huge fraction", "the largest fraction",
    "the smallest fraction", "not a number", "infinite",
)  # fmt: skip
"""Those of :data:`VALUES` that no numeric member may have."""
STEMS = {"transformer": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
ALLOWED = {"IntegrityError", "ModelIncomplete", "InvalidOutput"}
TOKENIZER = (
    "model_max_length", "extra_ids", "added_tokens_decoder", "bos_token", "eos_token", "unk_token", "pad_token",
    "additional_special_tokens", "split_special_tokens",
)  # fmt: skip


class Mutation(NamedTuple):
    """One member of one file, with a different value."""

    file: str
    member: str
    value: str
    around: tuple[Any, ...] = ()
    """For a member that is a list: its items without the last one, which the value replaces."""

    @property
    def changed(self) -> Any:
        return [*self.around, VALUES[self.value]] if self.around else VALUES[self.value]


class Shape(NamedTuple):
    """A fixture, read once: the input of the check."""

    folder: Path
    pipeline: str
    found: dict[str, str]
    components: list[model_folder.Component]


def shape_of(model: str) -> Shape:
    folder = MODELS / model
    index = json.loads((folder / "model_index.json").read_text())
    found = {name: pair[1] for name, pair in index.items() if isinstance(pair, list) and pair[1] is not None}
    components = [
        model_folder.read_component(folder, name, class_name, STEMS.get(name, "model"))
        for name, class_name in found.items()
        if (folder / name / "config.json").is_file()
    ]
    return Shape(folder, index["_class_name"], found, components)


def mutations(shape: Shape) -> list[Mutation]:
    """Return every member that is read or that the file has, with every value."""
    made: list[Mutation] = []
    for part, class_name in shape.found.items():
        kind = "tokenizer_config" if part.startswith("tokenizer") else "config"
        kind = "scheduler_config" if part == "scheduler" else kind
        file = f"{part}/{kind}.json"
        config = json.loads((shape.folder / file).read_text())
        own = set(config)
        known = set(TOKENIZER) if kind == "tokenizer_config" else set(CLASSES[class_name].read)
        made += [Mutation(file, member, value) for member in sorted(own | known) for value in VALUES]
        lists = {member: value for member, value in config.items() if isinstance(value, list) and len(value) > 1}
        made += [
            Mutation(file, member, value, tuple(items[:-1]))
            for member, items in sorted(lists.items())
            if all(type(item) in (int, float) for item in items)
            for value in VALUES
        ]
    return made


def fault_of(shape: Shape, mutation: Mutation, engine: str) -> EngineError | None:
    """Return the shared check's refusal, or None. No file is written."""
    part = mutation.file.split("/")[0]
    components = [
        msgspec.structs.replace(component, config=component.config | {mutation.member: mutation.changed})
        if component.name == part
        else component
        for component in shape.components
    ]
    read = folder_check.read_json

    def changed(folder: Path, name: str) -> dict[str, Any]:
        config = read(folder, name)
        return config | {mutation.member: mutation.changed} if name == mutation.file else config

    folder_check.read_json = folder_check.tokenizer_check.read_json = changed
    try:
        folder_check.checked(shape.folder, shape.pipeline, shape.found, components, engine)
    except EngineError as fault:
        return fault
    finally:
        folder_check.read_json = folder_check.tokenizer_check.read_json = read
    return None
