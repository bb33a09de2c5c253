"""The typed messages of ``host.*``: what a host sends on behalf of its user and never forwards from a web view."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from locara_protocol.messages import Params, Result

MAX_PICKED_FILES = 256

FileHandle = Annotated[str, Meta(min_length=1, max_length=128)]


MAX_PASSED_NAME = 64
"""Maximum length, in bytes, of the text sent along with a descriptor."""


PassedName = Annotated[
    str, Meta(min_length=1, max_length=MAX_PASSED_NAME, pattern="^[!-~]+$(?!\\n)", description="visible ASCII")
]


class PickFileParams(Params, frozen=True):
    """``write`` is for a file that may or may not exist yet. The file is given by one of: ``path``, the absolute path
    from a dialog; ``data``, its bytes, for reading; ``descriptor``, the text sent with it over the ``--descriptors``
    socket. The last two come with the file's ``name``, without its folder.
    """

    access: Literal["read", "write"]
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    data: Annotated[bytes, Meta(description="base64 with its padding and without line breaks")] | None = None
    descriptor: PassedName | None = None


class PickFileResult(Result, frozen=True):
    """``name``: the file's own, without its folder. ``bytes``: its length, if it was picked for reading."""

    handle: str
    name: str
    bytes: int | UnsetType = UNSET


class ReleaseFileParams(Params, frozen=True):
    handle: FileHandle
