"""Which relative paths may name a file in a granted folder. Pure: no file is looked at.

A name must mean the same thing on every system and to every eye: what is refused here is refused
everywhere, also where this machine's file system would take it.
"""

from __future__ import annotations

import re
import unicodedata

from locara_protocol.errors import RpcError, invalid_params

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
MAX_DEPTH = 32

_PATH = "$.options.output.path"
# backslash, fraction and division slashes, set minus, big and full-width (back)slashes
_SEPARATORS = frozenset("\\\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)


def split(relative: str) -> tuple[str, ...]:
    """The components of a relative path, in Unicode normal form C; the last is the file's name.

    :raises RpcError: InvalidParams that says why the path cannot be used.
    """
    if not relative:
        raise _refused("it is empty")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in relative):
        raise _refused("it is not valid Unicode")
    path = unicodedata.normalize("NFC", relative)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise _refused(f"it is longer than {MAX_PATH_BYTES} bytes")
    if path.startswith("/"):
        raise _refused("it is absolute; it must be relative to the root")
    parts = tuple(path.split("/"))
    if len(parts) > MAX_DEPTH:
        raise _refused(f"it is deeper than {MAX_DEPTH} folders")
    for part in parts:
        _check(part)
    return parts


def numbered(name: str, number: int) -> str:
    """``name-2.png`` for ``name.png`` and 2, its stem cut where it would be longer than a file system allows."""
    dot = name.rfind(".")
    stem, extension = (name[:dot], name[dot:]) if dot > 0 else (name, "")
    suffix = f"-{number}{extension}"
    room = MAX_NAME_BYTES - len(suffix.encode())
    while len(stem.encode()) > room and len(stem) > 1:
        stem = stem[:-1]
    return stem + suffix


def _check(part: str) -> None:
    if not part:
        raise _refused("a component is empty, or it ends with a slash")
    for character in part:
        _check_character(character)
    # some file systems and most eyes skip format characters, so the rules below do too
    plain = "".join(character for character in part if unicodedata.category(character) != "Cf")
    if plain in (".", ".."):
        raise _refused("it contains . or ..")
    if plain.startswith("."):
        raise _refused("a component begins with a dot; hidden files are not written")
    if not plain or plain[-1] == "." or plain[-1].isspace():
        raise _refused("a component ends with a dot or a space")
    if _RESERVED.fullmatch(plain.partition(".")[0].rstrip()):
        raise _refused("a component is a reserved device name")
    if len(part.encode()) > MAX_NAME_BYTES:
        raise _refused(f"a component is longer than {MAX_NAME_BYTES} bytes")


def _check_character(character: str) -> None:
    if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
        raise _refused("it contains a control character")
    if character in _BIDI:
        raise _refused("it contains a character that reverses the direction of text")
    if character in _SEPARATORS:
        raise _refused("it contains a backslash or another look-alike of the separator")
    if character == ":":
        raise _refused("it contains a colon")


def _refused(why: str) -> RpcError:
    return invalid_params(_PATH, f"The output path cannot be used: {why}.")
