"""The typed messages of ``host.*``: what a host says on behalf of its user and never forwards from a web view."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from locara_protocol.messages import Params, Result

MAX_PICKED_FILES = 256

FileHandle = Annotated[str, Meta(min_length=1, max_length=128)]


class PickFileParams(Params, frozen=True):
    """``path``: absolute, as a dialog gave it. ``write`` is for a file that may or may not be there yet."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    access: Literal["read", "write"]


class PickFileResult(Result, frozen=True):
    """``name``: the file's own, without its folder. ``bytes``: its length, where it was picked to be read."""

    handle: str
    name: str
    bytes: int | UnsetType = UNSET


class ReleaseFileParams(Params, frozen=True):
    handle: FileHandle
