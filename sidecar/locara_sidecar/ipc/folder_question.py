"""The question to the process that opens a model's folder before it is installed, and its answer."""

from __future__ import annotations

from typing import Any

import msgspec

from locara_sidecar.ipc.frames import ModelSpec


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the files in the folder of ``model`` can be that model, and draw ``width`` × ``height`` pixels with
    ``scheduler``.

    :param scratch: a writable folder.
    """

    engine: str
    model: ModelSpec
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
