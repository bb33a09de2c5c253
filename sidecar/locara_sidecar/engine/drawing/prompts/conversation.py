"""Prompts for text encoders that are chat models: the encoder reads a prompt as a user's message, inside a chat
template (``before`` and ``after`` in the tokenizer's row of ``machine/supported.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.machine.supported import Tokenizer


def said(kind: Tokenizer, text: str) -> str:
    """Return the text that the encoder reads for a prompt."""
    return f"{kind.before}{text}{kind.after}"


def starts(kind: Tokenizer, text: str, offsets: Iterable[int]) -> list[int]:
    """Return the position in ``text`` of each token that must fit for the whole text to be read. The template before
    the text counts as its beginning; what follows the text may be cut off.

    :param offsets: where each token begins in the result of :func:`said`.
    """
    before = len(kind.before)
    return [max(offset - before, 0) for offset in offsets if not kind.after or offset < before + len(text)]


def template(kind: Tokenizer) -> str:
    """Return the same as a chat template. It replaces the model's own template, which is never run."""
    return f"{{{{ {kind.before!r} + messages[0].content + {kind.after!r} }}}}"
