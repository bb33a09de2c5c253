"""What is asked of the process that opens a model's folder before it is installed, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """May the folder ``folder`` be a model of ``family``, drawn with ``scheduler`` at ``width`` × ``height`` pixels?

    :param scratch: a folder that may be written to.
    """

    engine: str
    folder: str
    family: str
    scheduler: str
    width: int
    height: int
    scratch: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``kind`` None: the engine can open it. ``available`` false: the engine itself cannot start here."""

    kind: str | None = None
    message: str = ""
    data: dict[str, Any] = {}
    available: bool = True
