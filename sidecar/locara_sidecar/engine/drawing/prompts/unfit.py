"""Handles tokenizers and text encoders that fail on a text: strangers made them, and a fault may show only then."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from locara_sidecar.engine.folder.model_folder import broken

if TYPE_CHECKING:
    from collections.abc import Generator

TRIAL = "A small café, 画 1."
"""Given to each tokenizer when its folder is opened: one that fails on every text is refused before anything is loaded.
"""

_FAILURES = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError)
"""What the libraries raise when a malformed tokenizer or encoder fails only on a text.

Texts are validated long before; device and memory failures raise other types.
"""
_PANIC = "PanicException"
"""The exception that a Rust library raises for its own bugs. It does not derive from ``Exception``, and cannot be
imported.
"""
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def blamed_on(file: str, reason: str) -> Generator[None]:
    """Within the block, report such a failure as a fault of the model's ``file``, with this ``reason``.

    :raises EngineError: IntegrityError.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, _FAILURES) and type(error).__name__ != _PANIC:
            raise
        _logger.warning("a text cannot be encoded: %s", type(error).__name__)
        raise broken(file, reason) from error


def encoding() -> contextlib.AbstractContextManager[None]:
    """Within the block, a text is encoded by all tokenizers and text encoders of a model; report failures as the
    model's fault.

    :raises EngineError: IntegrityError.
    """
    return blamed_on("model_index.json", "its tokenizers and text encoders fail on every text")
