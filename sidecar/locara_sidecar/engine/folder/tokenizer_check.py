"""Check a tokenizer's ``tokenizer_config.json``: members that change ids, and the length that its encoder takes.

The engines interpret the tokens; this module only ensures that they get nothing that they cannot read.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.engine.folder import part_sizes, tokenizer_bounds
from locara_sidecar.engine.folder.member_rules import Rule, each, either, number, off, one_of, switch, text, whole
from locara_sidecar.engine.folder.model_folder import broken, incomplete, read_json
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHORTEST = 4
"""In tokens: start, end, and something between."""
_POSITIONS = "max_position_embeddings"
_MOST_EXTRA = 10_000
_MOST_DIGITS = 8
_NEVER_NULL = {"eos_token", "pad_token", "added_tokens_decoder", "extra_ids", "split_special_tokens"}
_MARKS = ("<|im_start|>", "<|im_end|>", "enable_thinking", "</think>")
"""Parts of Qwen3's chat template that identify it; any other template would require other texts for the
encoder.
"""
_WORDS = re.compile(r"<\|im_start\|>(?:system|user|assistant)(?:\\n|\n)[^'\"\s{\\<]")
"""Text in a chat template that belongs to no message: the encoder would need it with every prompt."""
_READ = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
     "merges.txt"}
)  # fmt: skip
"""The files in a tokenizer's folder that libraries read."""
_HEAD = 4
"""In bytes. A JSON file begins with ASCII; in UTF-16 or UTF-32, one of these bytes is 0."""
_NO_LIMIT = 1e31
"""transformers writes about 1e30 for a tokenizer without a limit of its own."""


def _token(value: Any) -> Any:
    """A token's text or its description."""
    match value:
        case str() | {"content": str()}:
            return value
        case _:
            raise ValueError("a token")


def _described(value: Any) -> Any:
    """Descriptions of added tokens by their decimal id."""
    if not isinstance(value, dict):
        raise ValueError("tokens by their ids")
    for index, token in cast("dict[str, Any]", value).items():
        if not (index.isdecimal() and len(index) <= _MOST_DIGITS and isinstance(token, dict)):
            raise ValueError("tokens by their ids")
        _token(token)
    return cast("Any", value)


def _prose(value: Any) -> Any:
    """A text of any length that a file may have."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _map(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return cast("dict[str, Any]", value)


_TOKENS = each(_token, _MOST_EXTRA, least=0)
_NAMES = each(text, 64, least=0)
_COUNT = number(0, _NO_LIMIT)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), _token
    ),
    "added_tokens_decoder": _described,
    "additional_special_tokens": _TOKENS,
    "extra_special_tokens": either(_TOKENS, _map),
    "extra_ids": whole(0, _MOST_EXTRA),
    "model_max_length": _COUNT,
    "padding_side": one_of("right", "left"),
    "truncation_side": one_of("right", "left"),
    "split_special_tokens": off,
    # these change no ids: a file's origin, defaults that calls override, decoding, and what transformers 5 ignores for
    # these tokenizers, because each class has its own pre-tokenization
    **dict.fromkeys(
        ("tokenizer_class", "tokenizer_type", "name_or_path", "_name_or_path", "_commit_hash", "truncation_strategy",
         "tokenizer_file", "vocab_file", "merges_file", "processor_class", "backend", "cache_dir",
         "revision", "subfolder", "special_tokens_map_file"),
        text,
    ),
    **dict.fromkeys(
        ("is_local", "local_files_only", "use_fast", "from_slow", "verbose", "clean_up_tokenization_spaces",
         "spaces_between_special_tokens", "do_lower_case", "add_prefix_space", "legacy"),
        switch,
    ),
    "chat_template": _prose,
    "add_bos_token": off,
    **dict.fromkeys(("max_len", "max_length", "stride", "pad_to_multiple_of", "pad_token_type_id"), _COUNT),
    "errors": one_of("replace", "strict", "ignore"),
    "model_input_names": _NAMES,
    "sp_model_kwargs": _map,
}  # fmt: skip


def check(folder: Path, found: Mapping[str, str], configs: Mapping[str, dict[str, Any]]) -> None:
    """Check every tokenizer in ``found``.

    :param configs: the text encoders' configurations, which say how many tokens they take.
    :raises EngineError: ModelIncomplete, or IntegrityError naming file and member.
    """
    lengths: dict[str, int] = {}
    for name in found:
        if not name.startswith("tokenizer"):
            continue
        file = f"{name}/tokenizer_config.json"
        config = read_json(folder, file)
        encoder = configs.get(name.replace("tokenizer", "text_encoder"), {})
        clip, converses = found[name].startswith("CLIP"), found[name].startswith("Qwen")
        _require_readable(folder, name)
        described = _require_files(folder, name, "BPE" if clip or converses else "Unigram")
        _require_members(file, config, _NEVER_NULL | ({"bos_token"} if clip else set()))
        tokenizer_bounds.check(folder, name, config, described)
        if clip:
            lengths[file] = _require_length(file, config, int(encoder.get(_POSITIONS, 77)))
        if converses:
            tokenizer_bounds.require_nothing_added(f"{name}/tokenizer.json", described or {})
            _require_conversation(folder, name, config)
    if "unet" in found:  # SDXL joins what its two encoders make of each token; the others' lengths may differ
        _require_one_length(lengths)


def _require_conversation(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Identify the chat template by its parts, without running it: it is a program, and a stranger wrote it."""
    alone = folder / name / "chat_template.jinja"
    file, template = f"{name}/tokenizer_config.json", config.get("chat_template")
    if alone.is_file():  # libraries have written this form since 2025; it takes precedence
        file = f"{name}/{alone.name}"
        template = text_files.read(alone).decode("utf-8", "replace")
    if template is None:
        raise broken(file, "it has no chat_template, which tells what the text encoder is given around a prompt")
    if missing := [mark for mark in _MARKS if mark not in template]:
        raise broken(file, f"its chat template has no {missing[0]}, so it is not Qwen3's")
    if _WORDS.search(template):
        raise broken(file, "its chat template puts words of its own around a prompt, so it is not Qwen3's")
    if config.get("padding_side") == "left":
        raise broken(
            f"{name}/tokenizer_config.json", "its padding_side is 'left', and this encoder reads no such texts"
        )


def _require_readable(folder: Path, name: str) -> None:
    """Check the size and encoding of all files in this folder, because libraries read them by themselves.

    They accept only UTF-8, and take a byte order mark for part of the first word, while ``json`` accepts both, and
    UTF-16, too.

    :raises EngineError: IntegrityError naming the file.
    """
    for path in sorted((folder / name).iterdir()):
        if path.is_dir():
            continue
        try:
            text_files.require(path)
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except text_files.UnfitError as error:
            raise broken(f"{name}/{path.name}", str(error)) from error
        except OSError:
            continue  # nothing reads a dangling link
        if path.name in _READ and (head.startswith(codecs.BOM_UTF8) or b"\0" in head):
            raise broken(f"{name}/{path.name}", "it must be in UTF-8, without a byte order mark")


def _require_files(folder: Path, name: str, kind: str) -> dict[str, Any] | None:
    """Require the files of a tokenizer: ``tokenizer.json``, which is returned, or, for BPE, ``vocab.json`` and
    ``merges.txt``.

    ``spiece.model`` is not enough: transformers reads it with a separate package, which neither engine has.

    :param kind: the kind of model that the encoder's class needs, as files name it; another would give other tokens.
    :raises EngineError: ModelIncomplete or IntegrityError.
    """
    file = f"{name}/tokenizer.json"
    if (folder / file).is_file():
        described = read_json(folder, file)
        if (there := kind_of(described)) != kind:
            raise broken(file, f"it is of type {there[:64]!r}, but this part of the model needs type {kind}")
        return described
    if kind != "BPE" or not (folder / name / "vocab.json").is_file():
        alone = (folder / name / "spiece.model").is_file()
        raise incomplete(file, ", without which spiece.model cannot be read" if alone else "")
    if not (folder / name / "merges.txt").is_file():
        raise incomplete(f"{name}/merges.txt")
    return None


def main_file(folder: Path, name: str) -> str:
    """Return the file with the words of the tokenizer ``name``, relative to the model's folder."""
    file = f"{name}/tokenizer.json"
    return file if (folder / file).is_file() else f"{name}/vocab.json"


def kind_of(described: Mapping[str, Any]) -> str:
    """Return the kind of model in a ``tokenizer.json``. Older files show it only by their members."""
    model = described.get("model")
    if not isinstance(model, dict):
        return "none"
    members = cast("dict[str, Any]", model)
    return str(members.get("type") or ("BPE" if "merges" in members else "Unigram"))


def require_ids(name: str, highest: int, configs: Mapping[str, dict[str, Any]]) -> None:
    """Reject ids beyond the encoder's vocabulary: an error in one engine, arbitrary values in another.

    :param name: the tokenizer's, such as ``tokenizer_2``.
    :param highest: the highest id that it can produce.
    :raises EngineError: IntegrityError.
    """
    part = name.replace("tokenizer", "text_encoder")
    if part in configs and highest >= (size := part_sizes.words(configs[part])):
        reason = f"it has a token with id {highest}, but {part} knows only {size} tokens"
        raise broken(f"{name}/tokenizer_config.json", reason)


def _require_one_length(lengths: Mapping[str, int]) -> None:
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    if lengths[shortest] != lengths[longest]:
        other = longest.partition("/")[0]
        raise broken(shortest, f"its model_max_length is {lengths[shortest]} but that of {other} {lengths[longest]}")


def _require_length(file: str, config: Mapping[str, Any], positions: int) -> int:
    """Return the length: a CLIP encoder reads as many tokens as its tokenizer says, and needs a position for each.

    :raises EngineError: IntegrityError.
    """
    longest = config.get("model_max_length")
    if type(longest) is not int or not _SHORTEST <= longest <= positions:
        shown = repr(longest)[:40] if "model_max_length" in config else "absent"
        raise broken(
            file, f"its model_max_length is {shown} but must be a whole number from {_SHORTEST} to {positions}"
        )
    return longest


def _require_members(file: str, config: Mapping[str, Any], never_null: set[str]) -> None:
    for member, value in config.items():
        if value is None:
            if member in never_null:
                raise broken(file, f"its {member} is null")
            continue
        rule = _RULES.get(member)
        if rule is None:
            raise broken(file, f"its member {member[:64]!r} is not known and may change how a text is tokenized")
        try:
            rule(value)
        except ValueError as error:
            raise broken(file, f"its {member} must be {error}") from error
