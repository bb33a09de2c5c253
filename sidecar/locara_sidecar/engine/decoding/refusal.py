"""The error for files that are rejected as pictures."""

from __future__ import annotations


class ImageError(Exception):
    """A file cannot be used as a picture. The argument completes a sentence and begins with "it": "it is broken"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
