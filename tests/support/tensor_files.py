"""Safetensors files taken apart and put together again byte by byte, without any library's help."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


class Stored(NamedTuple):
    """One tensor of a file."""

    dtype: str
    shape: list[int]
    data: bytes

    @property
    def values(self) -> NDArray[np.float32]:
        """A floating tensor's numbers, flat."""
        if self.dtype == "BF16":
            return (np.frombuffer(self.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        return np.frombuffer(self.data, {"F16": np.float16, "F32": np.float32}[self.dtype]).astype(np.float32)


def read(path: Path) -> dict[str, Stored]:
    """All tensors of a file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found: dict[str, Stored] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = Stored(entry["dtype"], entry["shape"], data[start + begin : start + end])
    return found


def write(path: Path, tensors: dict[str, Stored], metadata: dict[str, str] | None = None) -> None:
    """A file of these tensors."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + len(tensor.data)]}
        at += len(tensor.data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensor.data for tensor in tensors.values()))


def change(path: Path, make: Callable[[str, Stored], Stored]) -> None:
    """Put in place of each tensor what ``make`` makes of it."""
    write(path, {name: make(name, tensor) for name, tensor in read(path).items()})


def eight_bits(exponent_bits: int) -> NDArray[np.float32]:
    """All 256 values of 8 bits of floating point with so many bits of exponent (4: E4M3FN, 5: E5M2), by their code."""
    fraction_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    values: list[float] = []
    for code in range(256):
        exponent, fraction = (code & 127) >> fraction_bits, (code & (2**fraction_bits - 1)) / 2**fraction_bits
        size = fraction * 2.0 ** (1 - bias) if exponent == 0 else (1 + fraction) * 2.0 ** (exponent - bias)
        special = (code & 127) == 127 if exponent_bits == 4 else exponent == 31
        values.append(float("nan") if special else -size if code >= 128 else size)
    return np.array(values, np.float32)


def narrowed(tensor: Stored, dtype: str) -> tuple[Stored, Stored]:
    """A floating tensor as ``dtype`` (F8_E4M3, F8_E5M2 or F64), and the same values as F32."""
    if dtype == "F64":
        values = tensor.values
        return (
            Stored("F64", tensor.shape, values.astype(np.float64).tobytes()),
            Stored("F32", tensor.shape, values.tobytes()),
        )
    table = eight_bits(4 if dtype == "F8_E4M3" else 5)
    codes = np.array([code for code in range(256) if np.isfinite(table[code])])
    codes = codes[np.argsort(table[codes], kind="stable")]
    ordered = table[codes]
    nearest = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, tensor.values)
    chosen = codes[nearest].astype(np.uint8)
    return Stored(dtype, tensor.shape, chosen.tobytes()), Stored("F32", tensor.shape, table[chosen].tobytes())
