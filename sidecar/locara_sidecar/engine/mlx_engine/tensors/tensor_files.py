"""Read safetensors files of every floating-point width, one tensor at a time.

``mx.load`` returns 8-bit floats as plain bytes, and rejects a whole file for one tensor of a type that it does not
know. So types are read from the header here: plain bytes are widened, and a file that ``mx.load`` would reject is read
with NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.folder import tensor_check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from locara_sidecar.engine.folder.tensor_check import Tensor

_UNKNOWN_TO_MLX = frozenset({"F64", "F8_E5M2"})
_STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E5M2": np.uint8,
           "F8_E4M3": np.uint8, "I64": np.int64, "I32": np.int32, "U32": np.uint32}  # fmt: skip
"""The NumPy types of their bytes."""


def tensors(path: Path) -> Iterator[tuple[str, mx.array, int]]:
    """Yield each tensor's name, value (lazy if MLX supports it) and size in the file in bytes.

    float64 becomes float32, and 8-bit floats a type that represents all their values. The file must have passed
    ``tensor_check``.

    Names are in reverse order: if a file has both of T5's word embeddings, the encoder's own is the one to use, so it
    must come last.

    :raises RuntimeError: or OSError, if the file cannot be read.
    """
    described, _ = tensor_check.headers(path)
    if any(tensor.dtype in _UNKNOWN_TO_MLX for tensor in described.values()):
        for name in sorted(described, reverse=True):
            tensor = described[name]
            yield name, _widened(mx.array(_bytes_of(path, tensor)), tensor.dtype), tensor.size
        return
    loaded = cast("dict[str, mx.array]", mx.load(str(path)))
    for name in sorted(loaded, reverse=True):
        yield name, _widened(loaded.pop(name), described[name].dtype), described[name].size


def _bytes_of(path: Path, tensor: Tensor) -> np.ndarray:
    if tensor.dtype not in _STORED:
        raise RuntimeError(f"{tensor.dtype} is not supported")
    stored = np.fromfile(
        path, _STORED[tensor.dtype], tensor.size // _STORED[tensor.dtype]().itemsize, offset=tensor.start
    )
    return stored.reshape(tensor.shape).astype(np.float32) if tensor.dtype == "F64" else stored.reshape(tensor.shape)


def _widened(value: mx.array, dtype: str) -> mx.array:
    match dtype:
        case "BF16":
            return value.view(mx.bfloat16) if value.dtype == mx.uint16 else value
        case "F8_E4M3":
            return mx.from_fp8(value, mx.bfloat16)
        case "F8_E5M2":  # the upper half of a float16
            return mx.left_shift(value.astype(mx.uint16), 8).view(mx.float16)
        case _:
            return value
