"""Limits the tokens that a tokenizer can make of a text, and its vocabulary's memory: the libraries have no limits.

They are written in Rust, which ends the whole process when memory runs out.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.engine.folder.model_folder import broken, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MOST_LETTERS = 1 << 20
"""Total number of characters in the added tokens of a file; each takes some 70 bytes as a state of an automaton. In
published models it is a few thousand.
"""
_LONGEST_FORM = 256
"""Number of bytes that one character may become. In SentencePiece's own map the maximum is 33."""
_HEAD = 4  # bytes: the length of the map's tree
_UNIT = 4  # bytes of a node


def check(folder: Path, name: str, config: Mapping[str, Any], described: Mapping[str, Any] | None) -> None:
    """Check the tokenizer in ``folder / name``.

    :param config: its ``tokenizer_config.json``.
    :param described: its ``tokenizer.json``, if it has one.
    :raises EngineError: IntegrityError naming the file.
    """
    listed: dict[str, Any] = {
        "tokenizer_config.json": {key: value for key, value in config.items() if key != "chat_template"},
        "tokenizer.json": {} if described is None else described.get("added_tokens"),
    }
    for file in ("special_tokens_map.json", "added_tokens.json"):
        if (folder / name / file).is_file():
            listed[file] = read_json(folder, f"{name}/{file}")
    for file, tokens in listed.items():
        if sum(map(len, _texts(tokens))) > _MOST_LETTERS:
            raise broken(f"{name}/{file}", f"its added tokens have more than {_MOST_LETTERS >> 20} MiB of characters")
    if described is not None:
        _require_map(f"{name}/tokenizer.json", described.get("normalizer"))


def require_nothing_added(file: str, described: Mapping[str, Any]) -> None:
    """Require a tokenizer that adds no tokens around a text. transformers does whatever the file says; MLX adds none.

    :raises EngineError: IntegrityError.
    """
    after = described.get("post_processor")
    parts: list[Any] = [after]
    if isinstance(after, dict):
        members = cast("dict[str, Any]", after)
        if members.get("type") == "Sequence" and isinstance(members.get("processors"), list):
            parts = members["processors"]
    if not all(map(_adds_nothing, parts)):
        raise broken(file, "its post_processor puts tokens around a text, so it is not Qwen's")


def _adds_nothing(after: Any) -> bool:
    match after:
        case None | {"type": "ByteLevel"} | {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}:
            return True
        case _:
            return False


def _require_map(file: str, normalizer: Any) -> None:
    """Limit how long a character map can make one character, wherever the map is in the description.

    :raises EngineError: IntegrityError.
    """
    for member in _members(normalizer):
        packed = member.get("precompiled_charsmap")
        if packed is None:
            continue
        try:
            data = base64.b64decode(packed)
        except (binascii.Error, TypeError, ValueError) as error:
            raise broken(file, "its precompiled_charsmap is not in base64") from error
        tree = int.from_bytes(data[:_HEAD], "little")
        if tree % _UNIT or _HEAD + tree > len(data):
            raise broken(file, "its precompiled_charsmap is cut off")
        if any(len(form) > _LONGEST_FORM for form in data[_HEAD + tree :].split(b"\0")):
            raise broken(file, f"its precompiled_charsmap makes more than {_LONGEST_FORM} bytes of a character")


def _members(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)
            waiting += cast("dict[str, Any]", item).values()
        elif isinstance(item, list):
            waiting += cast("list[Any]", item)


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, at any depth, including names of members."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from cast("dict[str, Any]", item)
            waiting += cast("dict[str, Any]", item).values()
        elif isinstance(item, list):
            waiting += cast("list[Any]", item)
