"""The device: its name, the number type that is sound on it, and what MLX says when it fails.

Owned here: everything that differs between Metal, CUDA and the CPU, so that the rest of the engine does not ask.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

import mlx.core as mx

from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from locara_sidecar.machine.plan import Limits

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
_NO_MEMORY = ("unable to allocate", "attempting to allocate", "out of memory", "insufficient memory", "outofmemory")
_INTERRUPTED = ("impactinginteractivity", "errortimeout", "errorhang", "innocentvictim", "submissionsignored")
"""How Metal calls what the system does to work on the GPU that takes too long (IOGPU's codes 14, 2, 3, 5 and 4)."""
_TRIES = 4
_SAID = 300  # characters
_WANTED = re.compile(r"allocat\w* (\d+)(?: bytes)?", re.IGNORECASE)


def choose_device() -> str:
    """``metal``, ``cuda`` or ``cpu``: what MLX was built for and finds.

    On the CPU ``mx.compile`` runs a shell and a C++ compiler at every new shape; it is switched off there. On chips
    with units for matrices (M5 with macOS 26.2, CUDA) MLX computes products of float32 with fewer digits unless it is
    told not to, which it asks once, at the first one. Here float32 means float32: the usual job is in bfloat16, which
    this does not touch, and who asks for float32 wants the reference's picture. ``MLX_ENABLE_TF32=1`` overrides it.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
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


def working_set(device: str) -> int | None:
    """What Metal recommends as the most that the GPU holds, in bytes; None on other devices."""
    if device != "metal":
        return None
    found = mx.device_info().get("max_recommended_working_set_size")
    return found if isinstance(found, int) and found > 0 else None


def keep_resident(device: str, size: int) -> None:
    """Have up to ``size`` bytes of arrays stay in memory while a job runs (macOS 15 or later); 0: none of them.

    Without it the system may compress or page out weights between two steps. Between jobs nothing is kept so: that
    memory would be missing in other programs.
    """
    if (most := working_set(device)) is None:
        return
    with contextlib.suppress(RuntimeError, ValueError):  # an older system, or another idea of what is too much
        mx.set_wired_limit(min(size, most))


def require_computing() -> None:
    """Compute something small, once as it is and once compiled: that MLX was built for Metal does not say that there is
    a GPU which works (in a virtual machine, or where its kernels cannot be compiled).

    :raises EngineError: EngineUnavailable, with what MLX says.
    """
    ones = mx.ones((8, 8))
    try:
        mx.eval(ones @ ones, mx.compile(_curve)(ones))
        mx.synchronize()
    except (RuntimeError, ValueError, MemoryError) as error:
        said = str(error).strip().partition("\n")[0][:_SAID]
        raise EngineError("EngineUnavailable", f"the device cannot compute ({said or type(error).__name__})") from error


def _curve(x: mx.array) -> mx.array:
    return mx.exp(x) * 2 + 1


def settle() -> None:
    """Wait until the device is idle after something failed, whatever it says: what failed is told already.

    MLX keeps an error of the device and raises it at the next wait, once; left there it would be raised in place of
    the failure that is under way, or in the middle of the next job.
    """
    for _ in range(_TRIES):
        try:
            mx.synchronize()
        except (RuntimeError, MemoryError):
            continue
        return


def fault(error: BaseException) -> EngineError | None:
    """The name of what the device did, if it has one."""
    return memory_fault(error) or _interrupted(error)


def _interrupted(error: BaseException) -> EngineError | None:
    """``EngineUnavailable`` for this moment: the system ended work that kept the GPU from drawing the screen.

    macOS 26 does so with "Impacting Interactivity" (ml-explore/mlx, issue 3267). MLX before 0.32 aborted the process.
    """
    text = re.sub(r"\s", "", str(error)).lower()
    if not any(words in text for words in _INTERRUPTED):
        return None
    helps = ["trying again", "a smaller picture", "closing other programs that use the GPU or animate the screen"]
    message = "The system stopped the engine's work on the GPU because the screen or another program was waiting."
    return EngineError("EngineUnavailable", message, reason="gpuInterrupted", retryable=True, suggestions=helps)


def memory_fault(error: BaseException) -> EngineError | None:
    """``InsufficientMemory`` if ``error`` says that an allocation failed, with the bytes it wanted where it tells."""
    text = str(error).lower()
    if not (isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)):
        return None
    wanted = _WANTED.search(text)
    figures = {"needed": int(wanted[1])} if wanted else {}
    return EngineError("InsufficientMemory", "The model ran out of memory on this device.", **figures)
