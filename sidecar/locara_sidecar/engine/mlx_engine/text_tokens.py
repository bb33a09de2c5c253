"""Texts as token ids, exactly as transformers 5 gives them, without it.

The pieces and merges come from the model's folder, either ``tokenizer.json`` or ``vocab.json`` with ``merges.txt``.
How a text is cut before they are applied does not: transformers builds that anew for each class of tokenizer, whatever
the file says, and so does this module.

CLIP (byte-level pairs): composed (NFC), runs of white space as one space, lower case; cut into words, single digits,
runs of other signs and English endings such as ``'s``; then each byte a letter of an alphabet of 256. Start and end
token around it.
T5 (unigram, the most likely cut into pieces): the character map of the file, if it has one; words by white space, each
with ``▁`` in front. End token behind it.

*Added* tokens, such as ``<|endoftext|>`` or the padding token ``!`` of CLIP-G, are found in the text before anything
else is done to it.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, cast

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from locara_sidecar.engine.model_folder import broken, incomplete, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_T5_UNKNOWN: Final = 2

Special = str | AddedToken


class TextTokenizer:
    """One tokenizer of a model.

    :ivar specials: how many tokens :meth:`ids` puts around a text.
    :ivar longest: how many tokens the model says that its encoder takes, those included.
    """

    def __init__(self, backend: Any, *, before: list[int], after: list[int], pad: int, longest: int) -> None:
        self._backend = backend
        self._before = before
        self._after = after
        self._pad = pad
        self.specials = len(before) + len(after)
        self.longest = longest

    def ids(self, text: str, length: int) -> list[int]:
        """Exactly ``length`` ids: what does not fit is cut off at the end, what lacks is padding."""
        inner: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        ids = [*self._before, *inner[: max(length - self.specials, 0)], *self._after]
        return ids + [self._pad] * (length - len(ids))

    def starts(self, text: str) -> list[int]:
        """The index in ``text`` at which each token begins, special ones left out, none cut off."""
        offsets: list[tuple[int, int]] = self._backend.encode(text, add_special_tokens=False).offsets
        return [start for start, _ in offsets]


def load(folder: Path, name: str) -> TextTokenizer:
    """The tokenizer in ``folder / name``; its kind follows from its files.

    :raises EngineFault: ModelIncomplete, or IntegrityError for files that make no tokenizer.
    """
    config = read_json(folder, f"{name}/tokenizer_config.json")
    described: dict[str, Any] = {}
    if (folder / name / "tokenizer.json").is_file():
        described = read_json(folder, f"{name}/tokenizer.json")
    try:
        model: dict[str, Any] = described.get("model", {})
        if model.get("type") == "Unigram":
            return _t5(described, config, _special_map(folder, name, config))
        vocab, merges = _pairs(folder, name, model)
        return _clip(vocab, merges, described, config, _special_map(folder, name, config))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken(f"{name}/tokenizer_config.json", "it makes no tokenizer") from error
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers package raises for bad pieces and merges
            raise
        raise broken(
            f"{name}/tokenizer.json" if described else f"{name}/merges.txt", "it makes no tokenizer"
        ) from error


def _pairs(folder: Path, name: str, model: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's pieces and merges from whichever form is there."""
    if model:
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        return dict(model["vocab"]), cast("list[tuple[str, str]]", merges)
    if (folder / name / "tokenizer.json").is_file():
        raise broken(f"{name}/tokenizer.json", "it makes no tokenizer")
    if not (folder / name / "vocab.json").is_file():
        raise incomplete(f"{name}/tokenizer.json")
    if not (folder / name / "merges.txt").is_file():
        raise incomplete(f"{name}/merges.txt")
    return BPE.read_file(str(folder / name / "vocab.json"), str(folder / name / "merges.txt"))


def _clip(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    described: Mapping[str, Any],
    config: Mapping[str, Any],
    special_map: Mapping[str, Special],
) -> TextTokenizer:
    named: dict[str, Special] = {**_CLIP_TOKENS, **_named(config), **special_map}
    backend = Tokenizer(
        BPE(
            vocab=vocab,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_content(named["unk_token"]),
        )
    )
    # white space is no part of any word, but it can be of an added token that is looked for in the normalized text
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    _add_tokens(backend, described, config, named)
    return TextTokenizer(
        backend,
        before=[_id(backend, named["bos_token"])],
        after=[_id(backend, named["eos_token"])],
        pad=_id(backend, named["pad_token"]),
        longest=int(config["model_max_length"]),
    )


def _t5(described: Mapping[str, Any], config: Mapping[str, Any], special_map: Mapping[str, Special]) -> TextTokenizer:
    named: dict[str, Special] = {**_T5_TOKENS, **_named(config), **special_map}
    pieces = [(str(piece), float(score)) for piece, score in described["model"]["vocab"]]
    backend = Tokenizer(Unigram(pieces, unk_id=_T5_UNKNOWN, byte_fallback=False))
    if (characters := _character_map(described.get("normalizer"))) is not None:
        backend.normalizer = normalizers.Precompiled(characters)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    sentinels = [f"<extra_id_{i}>" for i in range(int(config.get("extra_ids", 100)))]
    _add_tokens(backend, described, config, named, sentinels)
    return TextTokenizer(
        backend,
        before=[],
        after=[_id(backend, named["eos_token"])],
        pad=_id(backend, named["pad_token"]),
        longest=int(config["model_max_length"]),
    )


def _character_map(normalizer: Any) -> bytes | None:
    """SentencePiece's compiled map of characters, from the description's normalizer or one of its parts."""
    if not normalizer:
        return None
    parts: list[Any] = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    found = [part["precompiled_charsmap"] for part in parts if part["type"] == "Precompiled"]
    return base64.b64decode(found[0]) if found else None


def _special_map(folder: Path, name: str, config: Mapping[str, Any]) -> dict[str, Special]:
    """The named tokens of ``special_tokens_map.json``, which older folders have and newer ones do not need."""
    file = f"{name}/special_tokens_map.json"
    if "added_tokens_decoder" in config or not (folder / file).is_file():
        return {}
    return _named(read_json(folder, file), special=True)


def _named(config: Mapping[str, Any], *, special: bool = False) -> dict[str, Special]:
    """The tokens that have a role, as text or as the full description that the file gives."""
    found: dict[str, Special] = {}
    for role in _NAMED:
        match config.get(role):
            case str(text):
                found[role] = text
            case dict(fields):
                found[role] = _added(cast("dict[str, Any]", fields), special=special)
            case _:
                pass
    return found


def _added(fields: Mapping[str, Any], *, special: bool = False) -> AddedToken:
    known = {key: value for key, value in fields.items() if key not in ("__type", "id", "special")}
    return AddedToken(**known, special=special or bool(fields.get("special")))


def _add_tokens(
    backend: Any,
    described: Mapping[str, Any],
    config: Mapping[str, Any],
    named: Mapping[str, Special],
    more: list[str] | None = None,
) -> None:
    """Make the tokenizer find its added tokens: those listed by id first, so that new ones get the ids of the list."""
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        listed = {int(index): _added(fields) for index, fields in config["added_tokens_decoder"].items()}
    else:
        listed = {int(fields["id"]): _added(fields) for fields in described.get("added_tokens", [])}
    tokens = [listed[index] for index in sorted(listed)]
    texts = {token.content for token in tokens}
    by_role = [named[role] for role in _NAMED if role in named]
    for token in [*by_role, *(more or [])]:
        if _content(token) not in texts:
            texts.add(_content(token))
            tokens.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    backend.add_tokens(tokens)


def _content(token: Special) -> str:
    return token if isinstance(token, str) else token.content


def _id(backend: Any, token: Special) -> int:
    found: int | None = backend.token_to_id(_content(token))
    if found is None:
        raise ValueError(f"no token {_content(token)!r}")
    return found
