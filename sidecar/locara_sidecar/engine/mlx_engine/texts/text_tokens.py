"""Convert texts to token ids, exactly as transformers 5 does but without it.

Vocabulary and merges come from the model's folder, either ``tokenizer.json`` or ``vocab.json`` with ``merges.txt``.
Pre-tokenization does not: transformers builds it for each class of tokenizer, whatever the file says, and so does this
module.

CLIP (byte-level BPE): Unicode NFC, whitespace collapsed, lower case; split into words, single digits, runs of other
symbols and English endings such as ``'s``; then each byte becomes one of an alphabet of 256 letters. A start and an end
token are added. T5 (unigram, the most likely segmentation): the file's character map, if any; split at whitespace, with
``▁`` before each word. An end token is added.

*Added* tokens, such as ``<|endoftext|>`` or CLIP-G's padding token ``!``, are found in the text before any other
processing; :mod:`.added_tokens` reads them.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from locara_sidecar.engine.folder import tokenizer_check
from locara_sidecar.engine.folder.model_folder import broken, read_json
from locara_sidecar.engine.mlx_engine.texts import added_tokens

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
_T5_SENTINEL = "<extra_id_{}>"
_T5_UNKNOWN: Final = 2
_ENDLESS: Final = 1 << 30


class Ends(NamedTuple):
    """The tokens before and after a text, and the sides of padding and truncation."""

    before: list[int]
    after: list[int]
    pad: int
    padding: str
    truncation: str


class TextTokenizer:
    """One tokenizer of a model.

    :ivar specials: how many tokens :meth:`ids` adds around a text.
    :ivar longest: how many tokens the encoder takes according to the model, including those.
    :ivar keeps_end: whether a text that is too long loses its beginning instead of its end.
    """

    def __init__(self, backend: Any, ends: Ends, longest: int) -> None:
        self._backend = backend
        self._ends = ends
        self.specials = len(ends.before) + len(ends.after)
        self.longest = longest
        self.keeps_end = ends.truncation == "left"

    def ids(self, text: str, length: int) -> list[int]:
        """Return exactly ``length`` ids, truncated or padded."""
        ends = self._ends
        inner: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        room = max(length - self.specials, 0)
        kept = inner[max(len(inner) - room, 0) :] if self.keeps_end else inner[:room]
        ids = [*ends.before, *kept, *ends.after]
        padding = [ends.pad] * (length - len(ids))
        return padding + ids if ends.padding == "left" else ids + padding

    @property
    def highest(self) -> int:
        """The highest id that it can produce."""
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return max(vocabulary.values(), default=0)

    def starts(self, text: str) -> list[int]:
        """Return the index in ``text`` at which each token begins, without special tokens or truncation."""
        offsets: list[tuple[int, int]] = self._backend.encode(text, add_special_tokens=False).offsets
        return [start for start, _ in offsets]


def load(folder: Path, name: str) -> TextTokenizer:
    """Load the tokenizer in ``folder / name``. Its files, which ``tokenizer_check.py`` has checked, determine its kind.

    :raises EngineError: IntegrityError for files that are not a valid tokenizer.
    """
    config = read_json(folder, f"{name}/tokenizer_config.json")
    described: dict[str, Any] | None = None
    if (folder / name / "tokenizer.json").is_file():
        described = read_json(folder, f"{name}/tokenizer.json")
    try:
        model: dict[str, Any] = (described or {}).get("model", {})
        if described is not None and tokenizer_check.kind_of(described) == "Unigram":
            added = added_tokens.read(folder, name, config, described, _T5_TOKENS, _T5_SENTINEL)
            return _t5(described, config, added)
        vocab, merges = pairs(folder, name, model)
        added = added_tokens.read(folder, name, config, described, _CLIP_TOKENS)
        return _clip(vocab, merges, described, config, added)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken(f"{name}/tokenizer_config.json", "it does not define a valid tokenizer") from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers package raises these for invalid vocabularies and merges
            raise
        raise broken(
            f"{name}/tokenizer.json" if described else f"{name}/merges.txt", "it does not define a valid tokenizer"
        ) from error


def pairs(folder: Path, name: str, model: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read byte-pair vocabulary and merges from whichever files exist.

    :param model: what a ``tokenizer.json`` describes; empty if there is none.
    """
    if model:
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        return dict(model["vocab"]), cast("list[tuple[str, str]]", merges)
    if (folder / name / "tokenizer.json").is_file():
        raise broken(f"{name}/tokenizer.json", "it does not define a valid tokenizer")
    return BPE.read_file(str(folder / name / "vocab.json"), str(folder / name / "merges.txt"))


def _clip(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    described: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    added: added_tokens.AddedTokens,
) -> TextTokenizer:
    backend = Tokenizer(
        BPE(
            vocab=vocab,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=str(added.roles["unk_token"]),
        )
    )
    # whitespace is never part of a word, but may be part of an added token, which is found in the normalized text
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    around = ends(backend, added, described, config)
    return TextTokenizer(backend, around, longest=int(config["model_max_length"]))


def _t5(described: Mapping[str, Any], config: Mapping[str, Any], added: added_tokens.AddedTokens) -> TextTokenizer:
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
    around = ends(backend, added, described, config, starts=False)
    return TextTokenizer(backend, around, longest(config))


def ends(
    backend: Any,
    added: added_tokens.AddedTokens,
    described: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    *,
    starts: bool = True,
    around: bool = True,
) -> Ends:
    """Add the added tokens to the tokenizer, and return those around a text.

    :param starts: whether there is a start token; ``around``: whether there are any.
    """
    backend.add_tokens(added.tokens)
    backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
    return Ends(
        before=[_id(backend, added, "bos_token")] if starts and around else [],
        after=[_id(backend, added, "eos_token")] if around else [],
        pad=_id(backend, added, "pad_token"),
        padding=added_tokens.side(config, described, "padding"),
        truncation=added_tokens.side(config, described, "truncation"),
    )


def longest(config: Mapping[str, Any]) -> int:
    """Return a T5 tokenizer's limit. It may have none, or a huge one that means none: a job has its own."""
    return int(min(config.get("model_max_length") or _ENDLESS, _ENDLESS))


def _character_map(normalizer: Any) -> bytes | None:
    """Return SentencePiece's compiled character map from the normalizer's description or one of its parts."""
    if not normalizer:
        return None
    parts: list[Any] = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    found = [part["precompiled_charsmap"] for part in parts if part["type"] == "Precompiled"]
    return base64.b64decode(found[0]) if found else None


def _id(backend: Any, added: added_tokens.AddedTokens, role: str) -> int:
    found: int | None = backend.token_to_id(str(added.roles[role]))
    if found is None:
        raise ValueError(f"no token for {role}")
    return found
