"""Why a file is not taken as a picture."""

from __future__ import annotations


class ImageError(Exception):
    """A file cannot be used as a picture. The argument ends a sentence that begins with "it": "it is broken"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
