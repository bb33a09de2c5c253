"""The device: its name, the number type that is sound on it, and what MLX says when memory is short.

Owned here: everything that differs between Metal, CUDA and the CPU, so that the rest of the engine does not ask.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import mlx.core as mx

from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from locara_sidecar.machine.plan import Limits

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
_NO_MEMORY = ("unable to allocate", "attempting to allocate", "out of memory", "insufficient memory", "outofmemory")
_WANTED = re.compile(r"allocat\w* (\d+)(?: bytes)?", re.IGNORECASE)


def choose_device() -> str:
    """``metal``, ``cuda`` or ``cpu``: what MLX was built for and finds.

    On the CPU ``mx.compile`` runs a shell and a C++ compiler at every new shape; it is switched off there.
    """
    if mx.default_device().type == mx.gpu:
        return "metal" if mx.metal.is_available() else "cuda"
    mx.disable_compile()
    return "cpu"


def choose_precision(asked: str, device: str) -> str:
    """The computing type's name; ``auto`` is the fastest one that is sound on the device."""
    if asked != "auto":
        return asked
    return "float32" if device == "cpu" else "bfloat16"


def dtype_of(precision: str) -> mx.Dtype:
    """The MLX type of a precision's name."""
    return _DTYPES[precision]


def keep_to(limits: Limits) -> None:
    """Bound what MLX's allocator holds, until the next call."""
    mx.set_memory_limit(limits.memory)
    mx.set_cache_limit(limits.cache)


def memory_fault(error: BaseException) -> EngineError | None:
    """``InsufficientMemory`` if ``error`` says that an allocation failed, with the bytes it wanted where it tells."""
    text = str(error).lower()
    if not (isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)):
        return None
    wanted = _WANTED.search(text)
    figures = {"needed": int(wanted[1])} if wanted else {}
    return EngineError("InsufficientMemory", "The model ran out of memory on this device.", **figures)
