"""The examples in the OpenRPC document, recorded from a real session by ``tests/record_examples.py``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

_TEXT = Path(__file__).with_suffix(".json").read_bytes()  # now: an update may replace the file while the daemon runs


class Example(msgspec.Struct, frozen=True):
    """One request and its answer, without the messages of a call."""

    params: dict[str, Any]
    result: dict[str, Any]


@functools.cache
def recorded() -> dict[str, Example]:
    """Return the examples by method; some methods have none."""
    return msgspec.json.decode(_TEXT, type=dict[str, Example])
