"""The header of a safetensors file, checked more strictly than its readers do: every byte of the file is
described exactly once. https://github.com/huggingface/safetensors#format

A file is 8 bytes (the header's length, little-endian), the header in JSON, then the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER = 8 << 20
"""In bytes. The reference implementation accepts 100 MB, which become several GB in memory; the longest header of a
supported model has 300 KB.
"""

_MAX_COUNT = 2**63
_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class MalformedHeaderError(Exception):
    """A header does not describe its file; the message says what is wrong."""


def check_header(file: Path) -> int:
    """Check a file's header against its size and return the number of tensors. Reads the header only.

    :raises MalformedHeaderError: saying what is wrong.
    :raises OSError: if it cannot be read.
    """
    with file.open("rb") as opened:
        size = file.stat().st_size
        start = opened.read(8)
        if len(start) < 8:
            raise MalformedHeaderError("the file is shorter than 8 bytes")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER:
            raise MalformedHeaderError("it is too long")
        if length > size - 8:
            raise MalformedHeaderError("it runs past the end of the file")
        text = opened.read(length)
    return check_text(text, size - 8 - length)


def check_text(text: bytes, data_bytes: int) -> int:
    """Check a header's JSON against the number of bytes that follow it.

    :raises MalformedHeaderError: as :func:`check_header`.
    """
    if not text.startswith(b"{"):
        raise MalformedHeaderError("it does not start with an object")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except MalformedHeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedHeaderError("it is not JSON") from error
    tensors = cast("dict[str, Any]", header)
    metadata = tensors.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast("dict[str, Any]", metadata).values()):
        raise MalformedHeaderError("its metadata has a value that is not a string")
    end = 0
    for begin, stop in sorted(_range(tensor) for tensor in tensors.values()):
        if begin != end:
            raise MalformedHeaderError("its tensors overlap" if begin < end else "its tensors leave a gap")
        end = stop
    if end != data_bytes:
        raise MalformedHeaderError(
            "it runs past the end of the file" if end > data_bytes else "bytes follow its last tensor"
        )
    return len(tensors)


def _range(tensor: Any) -> tuple[int, int]:
    """Return where a tensor's bytes are after the header: (begin, end)."""
    if not isinstance(tensor, dict):
        raise MalformedHeaderError("a tensor is not an object")
    members = cast("dict[str, Any]", tensor)
    if members.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedHeaderError("a tensor needs dtype, shape and data_offsets and nothing else")
    dtype = members["dtype"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise MalformedHeaderError("a tensor has an unknown dtype")
    for side in _integers(members["shape"]):
        bits = _multiplied(bits, side)
    begin, end = _pair(members["data_offsets"])
    if bits % 8 or end - begin != bits // 8:
        raise MalformedHeaderError("a tensor's shape and its bytes disagree")
    return begin, end


def _multiplied(count: int, side: int) -> int:
    product = count * side
    if product >= _MAX_COUNT:  # 64-bit readers would wrap around
        raise MalformedHeaderError("a tensor's size overflows")
    return product


def _pair(value: Any) -> tuple[int, int]:
    offsets = _integers(value)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MalformedHeaderError("a tensor's data_offsets are not a range")
    return offsets[0], offsets[1]


def _integers(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise MalformedHeaderError("a shape or a range is not a list")
    numbers = cast("list[Any]", value)
    if not all(type(number) is int and 0 <= number < _MAX_COUNT for number in numbers):
        raise MalformedHeaderError("a shape or a range contains something that is not a size")
    return numbers


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedHeaderError("a name is repeated")
    return found


def _no_constant(name: str) -> Any:
    raise MalformedHeaderError(f"{name} is not a number")
