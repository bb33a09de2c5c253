"""The device: its name, which precision works on it, and how to interpret MLX's errors.

All differences between Metal, CUDA and the CPU are in this module, so that the rest of the engine need not ask.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx import nn

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import chips

if TYPE_CHECKING:
    from locara_sidecar.machine.plan import Limits

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
_NO_MEMORY = (
    *("unable to allocate", "attempting to allocate", "out of memory", "insufficient memory", "outofmemory"),
    "resource limit (",  # Metal's, on the number of buffers of any size: "[metal::malloc] Resource limit (499000)"
)
_INTERRUPTED = ("impactinginteractivity", "errortimeout", "errorhang", "innocentvictim", "submissionsignored")
"""Metal's errors for GPU work that the system ends because it takes too long (IOGPU's codes 14, 2, 3, 5 and 4)."""
_TRIES = 4
_SAID = 300  # characters
_WANTED = re.compile(r"allocat\w* (\d+)(?: bytes)?", re.IGNORECASE)


def choose_device() -> str:
    """Return ``metal``, ``cuda`` or ``cpu``: whatever MLX was built for and finds.

    On the CPU ``mx.compile`` would run a shell and a C++ compiler for every new shape, so it is switched off. On chips
    with matrix units (M5 with macOS 26.2, CUDA) MLX computes float32 products at reduced precision by default; it reads
    the setting once, at the first product. Here float32 means float32: jobs usually run in bfloat16, which this does
    not affect, and whoever asks for float32 wants the reference picture. ``MLX_ENABLE_TF32=1`` overrides it.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    if mx.default_device().type == mx.gpu:
        return "metal" if mx.metal.is_available() else "cuda"
    mx.disable_compile()
    return "cpu"


def choose_precision(asked: str, device: str, *, narrow: bool = False) -> str:
    """Return the name of the compute type. ``auto`` is the fastest one that works reliably on the device.

    :param narrow: use float16 instead of bfloat16.
    """
    if asked != "auto":
        return asked
    if device == "cpu":
        return "float32"
    return "float16" if narrow else "bfloat16"


def lacks_bfloat16(device: str) -> bool:
    """Whether this is a Mac's GPU that has no bfloat16."""
    if device != "metal":
        return False
    info = mx.device_info()
    return chips.lacks_bfloat16(str(info.get("device_name", "")), str(info.get("architecture", "")))


def dtype_of(precision: str) -> mx.Dtype:
    """Return the MLX type of a precision by its name."""
    return _DTYPES[precision]


def lay_out(model: nn.Module) -> None:
    """On the CPU, store the float32 weights of linear layers column by column; on other devices, do nothing.

    MLX's wheels for Linux have the reference BLAS. Its product with an untransposed matrix takes 0.6 times as long as
    with one to be transposed, and a linear layer transposes its weight. Shapes and numbers stay the same. With the
    system's OpenBLAS (``starting.py``) it makes no difference.
    """
    if mx.default_device().type != mx.cpu:
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == mx.float32:
            module.weight = mx.contiguous(module.weight.T).T
            mx.eval(module.weight)


def keep_to(limits: Limits) -> None:
    """Limit the memory of MLX's allocator until the next call."""
    mx.set_memory_limit(limits.memory)
    mx.set_cache_limit(limits.cache)


def working_set(device: str) -> int | None:
    """Return Metal's recommended maximum of GPU memory in bytes; None on other devices."""
    if device != "metal":
        return None
    found = mx.device_info().get("max_recommended_working_set_size")
    return found if isinstance(found, int) and found > 0 else None


def keep_resident(device: str, size: int) -> None:
    """Keep up to ``size`` bytes of arrays resident while a job runs (macOS 15 or later); 0 turns this off.

    Without it the system may compress or page out weights between two steps. It is off between jobs, since other
    programs would lack that memory.
    """
    if (most := working_set(device)) is None:
        return
    with contextlib.suppress(RuntimeError, ValueError):  # an older system, or a lower limit than ours
        mx.set_wired_limit(min(size, most))


def require_computing() -> None:
    """Run a small computation, plain and compiled, to check that the device works.

    That MLX was built for Metal does not mean that there is a usable GPU: in a virtual machine there may be none, or
    its kernels may fail to compile.

    :raises EngineError: EngineUnavailable, with MLX's message.
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
    """Wait until the device is idle after a failure, ignoring any error, since the failure is already reported.

    MLX keeps a device error and raises it once, at the next wait. Otherwise it would replace the exception in progress,
    or surface in the middle of the next job.
    """
    for _ in range(_TRIES):
        try:
            mx.synchronize()
        except (RuntimeError, MemoryError):
            continue
        return


def fault(error: BaseException) -> EngineError | None:
    """Return the EngineError for a device failure, or None if it is not a known one."""
    return memory_fault(error) or _interrupted(error)


def _interrupted(error: BaseException) -> EngineError | None:
    """Return EngineUnavailable, a temporary failure, if the system ended work that blocked the screen.

    macOS 26 does so with "Impacting Interactivity" (ml-explore/mlx, issue 3267). MLX before 0.32 aborted the process.
    """
    text = re.sub(r"\s", "", str(error)).lower()
    if not any(words in text for words in _INTERRUPTED):
        return None
    helps = ["trying again", "a smaller picture", "closing other programs that use the GPU or animate the screen"]
    message = "The system stopped the engine's work on the GPU because the screen or another program was waiting."
    return EngineError("EngineUnavailable", message, reason="gpuInterrupted", retryable=True, suggestions=helps)


def memory_fault(error: BaseException) -> EngineError | None:
    """Return InsufficientMemory if ``error`` is a failed allocation, with the requested bytes if known; else None."""
    text = str(error).lower()
    if not (isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)):
        return None
    wanted = _WANTED.search(text)
    figures = {"needed": int(wanted[1])} if wanted else {}
    return EngineError("InsufficientMemory", "The model ran out of memory on this device.", **figures)
