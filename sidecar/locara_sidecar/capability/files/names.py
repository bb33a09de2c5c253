"""Which relative paths may name a file in a granted folder. Pure: no file is accessed.

A new name must mean the same on every system and to every reader: what is refused here is refused everywhere, even if
this machine's file system would accept it. An existing file may have any name; only names that could lead out of the
folder are refused there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from locara_protocol.errors import invalid_params

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
MAX_DEPTH = 32

_PATH = "$.options.output.path"
# backslash, fraction and division slashes, set minus, big and full-width (back)slashes
_SEPARATORS = frozenset("\\\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)


def split(relative: str, at: str = _PATH) -> tuple[str, ...]:
    """Return the components of a relative path, in Unicode normal form C; the last is the file's name.

    :param at: the parameter that contains it.
    :raises RpcError: InvalidParams that says why the path cannot be used.
    """
    try:
        parts = _components(relative, "NFC")
        for part in parts:
            _check(part)
    except _RefusedError as refused:
        raise invalid_params(at, f"The output path cannot be used: {refused}.") from None
    return parts


def existing(relative: str, at: str) -> tuple[str, ...]:
    """Return the components, unchanged, of a relative path that names a file to read; the last is the file's name.

    :param at: the parameter that contains it.
    :raises RpcError: InvalidParams that says why the path cannot be used.
    """
    try:
        parts = _components(relative, None)
        for part in parts:
            if "\0" in part:
                raise _RefusedError("it contains a NUL character")
            _check_step(part)
    except _RefusedError as refused:
        raise invalid_params(at, f"The path cannot be used: {refused}.") from None
    return parts


def numbered(name: str, number: int) -> str:
    """Return ``name-2.png`` for ``name.png`` and 2, its stem cut if it would be longer than a file system allows."""
    dot = name.rfind(".")
    stem, extension = (name[:dot], name[dot:]) if dot > 0 else (name, "")
    suffix = f"-{number}{extension}"
    room = MAX_NAME_BYTES - len(suffix.encode())
    while len(stem.encode()) > room and len(stem) > 1:
        stem = stem[:-1]
    return stem + suffix


class _RefusedError(Exception):
    """Why a path cannot be used."""


def _components(relative: str, form: Literal["NFC"] | None) -> tuple[str, ...]:
    if not relative:
        raise _RefusedError("it is empty")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in relative):
        raise _RefusedError("it is not valid Unicode")
    path = relative if form is None else unicodedata.normalize(form, relative)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise _RefusedError(f"it is longer than {MAX_PATH_BYTES} bytes")
    if path.startswith("/"):
        raise _RefusedError("it is absolute; it must be relative to the root")
    parts = tuple(path.split("/"))
    if len(parts) > MAX_DEPTH:
        raise _RefusedError(f"it is deeper than {MAX_DEPTH} folders")
    return parts


def _check_step(part: str) -> str:
    """Refuse a component that is not a step down, or is too long. Return it without what some file systems and most
    readers ignore.
    """
    if not part:
        raise _RefusedError("a component is empty, or it ends with a slash")
    plain = "".join(character for character in part if unicodedata.category(character) != "Cf")
    if plain in (".", ".."):
        raise _RefusedError("it contains . or ..")
    if len(part.encode()) > MAX_NAME_BYTES:
        raise _RefusedError(f"a component is longer than {MAX_NAME_BYTES} bytes")
    return plain


def _check(part: str) -> None:
    for character in part:
        _check_character(character)
    plain = _check_step(part)
    if plain.startswith("."):
        raise _RefusedError("a component begins with a dot; hidden files are not written")
    if not plain or plain[-1] == "." or plain[-1].isspace():
        raise _RefusedError("a component ends with a dot or a space")
    if _RESERVED.fullmatch(plain.partition(".")[0].rstrip()):
        raise _RefusedError("a component is a reserved device name")


def _check_character(character: str) -> None:
    if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
        raise _RefusedError("it contains a control character")
    if character in _BIDI:
        raise _RefusedError("it contains a character that reverses the direction of text")
    if character in _SEPARATORS:
        raise _RefusedError("it contains a backslash or another look-alike of the separator")
    if character == ":":
        raise _RefusedError("it contains a colon")
