"""Converts prompts to Qwen's token ids, exactly as transformers 5 does but without it.

Byte-level BPE: Unicode NFC; split into words with the symbol or space before them, single digits, runs of other
symbols, line breaks and spaces; then each byte becomes one of an alphabet of 256 letters. Nothing is added around a
text except the chat template (``engine/drawing/prompts/conversation.py``), whose marks are added tokens within the text
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from locara_sidecar.engine.drawing.prompts import conversation
from locara_sidecar.engine.folder.model_folder import broken, read_json
from locara_sidecar.engine.mlx_engine.texts import added_tokens, text_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.machine.supported import Tokenizer as Kind

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_TOKENS: dict[str, str] = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")


class ConversationTokenizer(text_tokens.TextTokenizer):
    """Tokenizes prompts inside a chat template."""

    def __init__(self, backend: Any, ends: text_tokens.Ends, longest: int, kind: Kind) -> None:
        super().__init__(backend, ends, longest)
        self._kind = kind

    def words(self, text: str, length: int) -> list[int]:
        """Return at most ``length`` ids of a prompt and the template around it; the rest is cut off."""
        ids: list[int] = self._backend.encode(conversation.said(self._kind, text), add_special_tokens=False).ids
        return ids[max(len(ids) - length, 0) :] if self.keeps_end else ids[:length]

    def ids(self, text: str, length: int) -> list[int]:
        words = self.words(text, length)
        return words + [self._ends.pad] * (length - len(words))

    def starts(self, text: str) -> list[int]:
        read = self._backend.encode(conversation.said(self._kind, text), add_special_tokens=False)
        return conversation.starts(self._kind, text, (start for start, _ in read.offsets))


def load(folder: Path, name: str, kind: Kind) -> ConversationTokenizer:
    """Load the tokenizer in ``folder / name``, whose files ``tokenizer_check.py`` has checked.

    :raises EngineError: IntegrityError for files that are not a valid tokenizer.
    """
    config = read_json(folder, f"{name}/tokenizer_config.json")
    described: dict[str, Any] | None = None
    if (folder / name / "tokenizer.json").is_file():
        described = read_json(folder, f"{name}/tokenizer.json")
    try:
        vocab, merges = text_tokens.pairs(folder, name, (described or {}).get("model", {}))
        added = added_tokens.read(folder, name, config, described, _TOKENS)
        backend = Tokenizer(BPE(vocab=vocab, merges=merges))
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space")), use_regex=False),
            ]
        )
        ends = text_tokens.ends(backend, added, described, config, around=False)
        return ConversationTokenizer(backend, ends, text_tokens.longest(config), kind)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken(f"{name}/tokenizer_config.json", "it makes no tokenizer") from error
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers package raises for bad pieces and merges
            raise
        raise broken(
            f"{name}/tokenizer.json" if described else f"{name}/merges.txt", "it makes no tokenizer"
        ) from error
