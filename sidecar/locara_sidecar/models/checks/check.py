"""Checks that a model's files are safetensors, JSON or plain text, and nothing that could be executed.

Refused if a catalogue's patterns select it or a file refers to it: pickles, GGUF, archives, Python code, ``auto_map``,
``custom_pipeline``, malformed safetensors, an index that points outside its folder. Files that no pattern selects are
never looked at.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from locara_protocol.errors import RpcError
from locara_sidecar.machine import supported
from locara_sidecar.machine.processes.trees import shown
from locara_sidecar.models.cache.digest import META
from locara_sidecar.weights import text_files, weight_files
from locara_sidecar.weights.safetensors_header import MalformedHeaderError, check_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.models.catalogue import Entry

ALLOWED = (".safetensors", ".json", ".txt", ".md", ".jinja")
"""The allowed suffixes of a model's files. ``.jinja`` is a chat template, which is inspected and never executed."""

MAX_FILES = 4096
_MAX_PATH = 512
_MAX_NAMES = 1 << 20
"""Bytes of all paths together, as JSON. ``meta.json`` lists them up to twice, and must be no longer than a text file of
the cache may be; an error that names them all must fit into one event of a worker.
"""
_MAX_DEPTH = 8
_CODE_KEYS = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code"})
_LIBRARIES = frozenset({"diffusers", "transformers"})
_KINDS = {
    ".bin": "a pickle", ".pt": "a pickle", ".pth": "a pickle", ".ckpt": "a pickle", ".pkl": "a pickle",
    ".gguf": "GGUF", ".ggml": "GGUF", ".py": "code", ".pyc": "code", ".so": "code", ".dll": "code",
    ".zip": "an archive", ".tar": "an archive", ".gz": "an archive", ".7z": "an archive", ".npz": "an archive",
}  # fmt: skip


def refused(path: str, why: str) -> RpcError:
    """Build the IntegrityError that names a file, even if its name is not valid UTF-8."""
    path = shown(path)
    return RpcError("IntegrityError", f"{path} is refused: {why}.", file=path, files=[path])


def check_names(paths: Iterable[str]) -> None:
    """Check the file names of a model's tree.

    :raises RpcError: IntegrityError naming the file.
    """
    seen: set[str] = set()
    length = 0
    for count, path in enumerate(paths, 1):
        pure = PurePosixPath(path)
        plain = pure.as_posix() == path and not pure.is_absolute() and "\\" not in path and ":" not in path
        if not plain or not path.isprintable() or any(part.startswith(".") for part in pure.parts):
            raise refused(path, "a file's path must lie in the model's folder and not be hidden")
        if len(path) > _MAX_PATH or len(pure.parts) > _MAX_DEPTH or count > MAX_FILES:
            raise refused(path, "there are too many files, or its path is too long")
        length += len(json.dumps(path, ensure_ascii=False).encode())
        if length > _MAX_NAMES:
            raise refused(path, f"the names of all files are together longer than {_MAX_NAMES >> 20} MiB")
        if pure.suffix.lower() not in ALLOWED:
            kind = _KINDS.get(pure.suffix.lower(), "of a kind that is not allowed")
            raise refused(path, f"it is {kind}; a model is made of safetensors, JSON and text")
        if path.casefold() in seen or path.casefold() == META:
            raise refused(path, "its name is taken")
        seen.add(path.casefold())


def check_size(path: str, size: int) -> None:
    """Check that a text file has no more bytes than one of its name may have.

    :param size: the announced size, before any of it has arrived.
    :raises RpcError: IntegrityError naming the file.
    """
    if path.endswith(".safetensors"):
        return
    try:
        text_files.require_size(PurePosixPath(path).name, size)
    except text_files.UnfitError as error:
        raise refused(path, str(error)) from error


def check_file(folder: Path, path: str, there: Path | None = None) -> None:
    """Check one file's contents, including the names in an index or ``model_index.json``, but not whether those exist.

    :param there: where the file is, if it has no place in the folder yet.
    :raises RpcError: IntegrityError naming the file.
    :raises OSError: if it cannot be read.
    """
    file = there or folder.joinpath(*PurePosixPath(path).parts)
    if path.endswith(".safetensors"):
        try:
            check_header(file)
        except MalformedHeaderError as error:
            raise refused(path, f"its safetensors header is malformed ({error})") from error
    elif path.endswith(".json"):
        _check_json(path, _load(file, path))
    else:
        check_size(path, file.stat().st_size)


def check_complete(folder: Path, paths: Iterable[str]) -> None:
    """Check that the files form a model: every component in ``model_index.json``, with its weights if it has any,
    and every shard of every index.

    :raises RpcError: ModelIncomplete naming what is missing.
    """
    there = set(paths)
    if "model_index.json" not in there:
        raise _missing("model_index.json")
    index = _load(folder / "model_index.json", "model_index.json")
    for name, value in cast("dict[str, Any]", index).items() if isinstance(index, dict) else ():
        if not _is_component(value):
            continue
        part = {path for path in there if path.startswith(f"{name}/")}
        if not part:
            pipeline = str(cast("dict[str, Any]", index).get("_class_name"))[:64]
            why = f", a part of its {pipeline!r}, among the files that its catalogue entry lists"
            raise _missing(f"{name}/", why)
        # only components with weights have a config file of this name
        if f"{name}/config.json" in part and not any(path.endswith(".safetensors") for path in part):
            raise _missing(f"{name}/*.safetensors")
    for path in there:
        base, name = PurePosixPath(path).parent, PurePosixPath(path).name
        if not weight_files.is_index(name) or not (name.endswith(".index.json") or _is_taken(path, there)):
            continue
        for shard in set(_weight_map(path, _load(folder / path, path)).values()):
            if (base / shard).as_posix() not in there:
                raise _missing((base / shard).as_posix())


def check_guidance(entry: Entry, folder: Path) -> None:
    """Check that a FLUX.1 has the expected guidance input. A model with it and one without can be swapped unnoticed,
    and then draw badly: the guidance is ignored, or is 0.

    :raises RpcError: IntegrityError.
    """
    path = "transformer/config.json"
    row = supported.FAMILIES.get(entry.family)
    if row is None or not row.embeds_guidance or not (folder / path).is_file():
        return
    config = _load(folder / path, path)
    takes = isinstance(config, dict) and cast("dict[str, Any]", config).get("guidance_embeds") is True
    if takes != (entry.defaults.guidance > 0):
        trained = "was trained with guidance" if takes else "takes no guidance"
        raise refused(path, f"this model {trained}, but the guidance of {entry.id} is {entry.defaults.guidance:g}")


def _is_taken(index: str, there: set[str]) -> bool:
    """Whether an engine would use this index of a variant."""
    base, name = PurePosixPath(index).parent, PurePosixPath(index).name
    beside = {PurePosixPath(path).name for path in there if PurePosixPath(path).parent == base}
    return any(weight_files.choose(stem, beside) == name for stem in weight_files.STEMS)


def _missing(what: str, why: str = "") -> RpcError:
    return RpcError("ModelIncomplete", f"The model has no {what}{why}.", file=what)


def _load(file: Path, path: str) -> Any:
    try:
        return json.loads(text_files.read(file, PurePosixPath(path).name))
    except text_files.UnfitError as error:
        raise refused(path, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise refused(path, "it is not JSON") from error


def _check_json(path: str, value: Any) -> None:
    if weight_files.is_index(PurePosixPath(path).name):
        for shard in _weight_map(path, value).values():
            if PurePosixPath(shard).name != shard or "\\" in shard or shard.startswith("."):
                raise refused(path, "it names a file outside its folder")
            if not shard.endswith(".safetensors"):
                raise refused(path, "it names weights that are not safetensors")
        return
    if PurePosixPath(path).name == "model_index.json" and isinstance(value, dict):
        _check_pipeline(path, cast("dict[str, Any]", value))
    _check_code(path, value)


def _check_pipeline(path: str, index: dict[str, Any]) -> None:
    """Check that ``[library, class]`` only names diffusers' and transformers' own classes; others would be imported."""
    if not isinstance(index.get("_class_name"), str):
        raise refused(path, "it names a custom pipeline")
    for name, value in index.items():
        if isinstance(value, list):
            pair = cast("list[Any]", value)
            if pair != [None, None] and (len(pair) != 2 or pair[0] not in _LIBRARIES or not isinstance(pair[1], str)):
                raise refused(path, f"its part {name[:64]} comes from neither diffusers nor transformers")


def _is_component(value: Any) -> bool:
    return isinstance(value, list) and len(cast("list[Any]", value)) == 2 and cast("list[Any]", value)[0] in _LIBRARIES


def _check_code(path: str, value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            members = cast("dict[str, Any]", item)
            found = _CODE_KEYS & members.keys()
            # a vocabulary may contain any word; code is referenced by a string or an object
            if any(isinstance(members[key], str | dict | list) or members[key] is True for key in found):
                raise refused(path, f"it asks for code to be run ({min(found)})")
            waiting += members.values()
        elif isinstance(item, list):
            waiting += cast("list[Any]", item)


def _weight_map(path: str, value: Any) -> dict[str, str]:
    shards: Any = cast("dict[str, Any]", value).get("weight_map") if isinstance(value, dict) else None
    if not isinstance(shards, dict):
        raise refused(path, "an index needs a weight_map")
    found = cast("dict[str, Any]", shards)
    if not all(isinstance(shard, str) and shard for shard in found.values()):
        raise refused(path, "its weight_map must name files")
    return found
