"""Read a model folder in diffusers layout, and check that it is complete before reading a tensor. Both engines use it.

Everything is checked before anything is built: every JSON file is valid, every class is known to the family, and every
shard exists and has a header consistent with its length (according to safetensors' own reader). A missing file is
``ModelIncomplete``, an invalid one ``IntegrityError``; both name the file relative to the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from safetensors import SafetensorError
from safetensors import safe_open as _safe_open

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.weights import safetensors_header, text_files, weight_files

safe_open: Any = _safe_open
Classes = Mapping[str, frozenset[str]]
"""Maps each component's name to the class names that a family accepts for it."""


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A subfolder with weights: its class, its configuration and its safetensors files."""

    name: str
    class_name: str
    config: dict[str, Any]
    files: list[Path]
    size: int


class Progress:
    """Progress of loading, in bytes, with a cancel point at every tensor.

    :param total: bytes in all files.
    :param report: called with the fraction done whenever it has grown by a hundredth.
    :param checkpoint: the job's.
    """

    def __init__(self, total: int, report: Callable[[float], None], checkpoint: Callable[[], None]) -> None:
        self._total = max(total, 1)
        self._report = report
        self._done = 0
        self._reported = 0.0
        self.checkpoint = checkpoint

    def advance(self, size: int) -> None:
        """Count ``size`` more bytes as read.

        :raises JobCancelled: if the job was cancelled.
        """
        self._done += size
        fraction = min(self._done / self._total, 1.0)
        if fraction >= self._reported + 0.01:
            self._reported = fraction
            self._report(fraction)
        self.checkpoint()


def incomplete(file: str, more: str = "") -> EngineError:
    """Return ModelIncomplete for a missing ``file``, named relative to the folder."""
    return EngineError("ModelIncomplete", f"The model's folder lacks {file}{more}.", file=file)


def broken(file: str, reason: str) -> EngineError:
    """Return IntegrityError for an invalid ``file``, named relative to the folder, with the ``reason``."""
    return EngineError("IntegrityError", f"The model's file {file} cannot be used: {reason}.", files=[file])


def tensors_missing(component: Component, names: list[str]) -> EngineError:
    """Return IntegrityError for a component whose files lack the tensors ``names``."""
    alone = f"the tensor {names[0]} is missing"
    what = alone if len(names) == 1 else f"{len(names)} tensors are missing, such as {names[0]}"
    return broken(f"{component.name}/{component.files[0].name}", what)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of the model.

    :raises EngineError: ModelIncomplete or IntegrityError.
    """
    try:
        value = json.loads(text_files.read(folder / name))
    except FileNotFoundError as error:
        raise incomplete(name) from error
    except text_files.UnfitError as error:
        raise broken(name, str(error)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise broken(name, "it is not readable JSON") from error
    if not isinstance(value, dict):
        raise broken(name, "it does not hold a JSON object")
    return cast("dict[str, Any]", value)


def read_index(folder: Path, pipelines: Sequence[str], classes: Classes, optional: frozenset[str]) -> dict[str, str]:
    """Return the components that ``model_index.json`` names, with their classes. Those in ``optional`` may be null.

    :param pipelines: the pipeline classes that it may describe, the usual one first.
    :raises EngineError: for another pipeline, a class that is not in ``classes``, or a required component that is null.
    """
    name = "model_index.json"
    index = read_json(folder, name)
    described: Any = index.get("_class_name")
    if not isinstance(described, str) or described not in pipelines:
        raise broken(name, f"it describes {described!r}, not {pipelines[0]}")
    found: dict[str, str] = {}
    for component, accepted in classes.items():
        pair: Any = index.get(component)
        class_name: Any = (
            cast("list[Any]", pair)[1] if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2 else None
        )
        if class_name is None and component in optional:
            continue
        if not isinstance(class_name, str) or class_name not in accepted:
            known = " or ".join(sorted(accepted))
            raise broken(name, f"its {component} is {class_name!r}, which this engine does not run; use {known}")
        found[component] = class_name
    return found


def read_component(folder: Path, name: str, class_name: str, stem: str) -> Component:
    """Check one component's files without reading a tensor.

    :param stem: the weight files' name, ``model`` or ``diffusion_pytorch_model``.
    :raises EngineError: ModelIncomplete or IntegrityError.
    """
    config = read_json(folder, f"{name}/config.json")
    there = {file.name for file in (folder / name).iterdir() if file.is_file()}
    index = f"{name}/{weight_files.choose(stem, there) or f'{stem}.safetensors'}"
    names = [index]
    expected: dict[str, str] = {}
    if index.endswith(".json"):
        weight_map: Any = read_json(folder, index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise broken(index, "it has no weight_map")
        expected = {str(key): str(file) for key, file in cast("dict[Any, Any]", weight_map).items()}
        if any(Path(file).name != file or not file.endswith(".safetensors") for file in expected.values()):
            raise broken(index, "it names something that is not a safetensors file in its folder")
        names = [f"{name}/{file}" for file in sorted(set(expected.values()))]
    for file in names:  # compared, not looked up: an index may contain names that no file system accepts
        if file.partition("/")[2] not in there:
            raise incomplete(file)
    _require_headers(folder, names)
    keys = {file: _header_keys(folder, file) for file in names}
    for key, file in expected.items():
        if key not in keys[f"{name}/{file}"]:
            raise broken(f"{name}/{file}", f"it lacks the tensor {key}")
    files = [folder / file for file in names]
    return Component(
        name=name, class_name=class_name, config=config, files=files, size=sum(file.stat().st_size for file in files)
    )


def _require_headers(folder: Path, names: list[str]) -> None:
    """Limit the total size of a component's headers before any is read: they are untrusted, and are kept in memory.

    :raises EngineError: IntegrityError naming the file.
    """
    left = safetensors_header.MAX_HEADER
    for name in names:
        with (folder / name).open("rb") as file:
            left -= int.from_bytes(file.read(8), "little")
        if left < 0:
            raise broken(name, f"the headers of this part are longer than {safetensors_header.MAX_HEADER >> 20} MiB")


def _header_keys(folder: Path, name: str) -> frozenset[str]:
    try:
        with safe_open(folder / name, framework="numpy") as file:
            return frozenset(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(name, f"it is not a complete safetensors file ({error})") from error
