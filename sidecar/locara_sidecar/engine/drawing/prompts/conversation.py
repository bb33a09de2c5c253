"""Prompts for encoders that are models of conversations: a prompt is what a person says in one, and the encoder reads
it with the marks around it (``before`` and ``after`` in the tokenizer's row of ``machine/supported.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.machine.supported import Tokenizer


def said(kind: Tokenizer, text: str) -> str:
    """What the encoder reads for a prompt."""
    return f"{kind.before}{text}{kind.after}"


def starts(kind: Tokenizer, text: str, offsets: Iterable[int]) -> list[int]:
    """Where in ``text`` the tokens begin that have to fit for all of it to be read: the marks before it count as its
    beginning, and those behind it may be cut off.

    :param offsets: where each token begins in what :func:`said` gives.
    """
    before = len(kind.before)
    return [max(offset - before, 0) for offset in offsets if not kind.after or offset < before + len(text)]


def template(kind: Tokenizer) -> str:
    """A chat template that says the same: one's own, so that none is run that came with a model."""
    return f"{{{{ {kind.before!r} + messages[0].content + {kind.after!r} }}}}"
