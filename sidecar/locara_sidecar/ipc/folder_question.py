"""The question to the process that opens a model's folder before it is installed, and its answer."""

from __future__ import annotations

from typing import Any

import msgspec


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whether ``folder`` can be a model of ``family`` that draws ``width`` × ``height`` pixels with ``scheduler``.

    :param scratch: a writable folder.
    """

    engine: str
    folder: str
    family: str
    scheduler: str
    width: int
    height: int
    scratch: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """With ``kind`` None, the engine can open the folder. With ``available`` false, the engine itself cannot start
    here.
    """

    kind: str | None = None
    message: str = ""
    data: dict[str, Any] = {}
    available: bool = True
