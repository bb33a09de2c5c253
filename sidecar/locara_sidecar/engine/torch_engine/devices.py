"""The device: which one to use, which precisions work on it, synchronisation and memory.

All differences between CUDA, MPS and the CPU are in this module, so that the rest of the engine need not ask.

Attention is torch's fused kernel everywhere (diffusers' own choice). Blocks are compiled if the host asks for it
(:mod:`.denoising.compiled`).
"""

from __future__ import annotations

import gc
import os
import re
from typing import Any

import torch

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine, memory

_NODES = {"/dev/nvidiactl": torch.version.cuda, "/dev/kfd": torch.version.hip}
"""The driver's device node, and the version of its libraries that this torch was built for."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_WANTED = re.compile(r"allocate (\d+(?:\.\d+)?) ?(bytes|KiB|MiB|GiB|KB|MB|GB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 2**10, "MB": 2**20, "GB": 2**30}


def choose_device() -> str:
    """Return ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def unused_gpu(device: str) -> str | None:
    """Return a sentence saying why a GPU that exists, and that this torch was built for, is not used.

    None if it is used or there is none. Without this, a broken driver would look like a slow machine.
    """
    node = next((path for path, built in _NODES.items() if built and os.path.exists(path)), None)
    if device != "cpu" or node is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
    else:
        reason = "no device was found"
    return f"There is a GPU ({node}) that torch cannot use, so it runs on the CPU: {reason}."


def choose_precision(asked: str, device: str) -> str:
    """Return the name of the compute type. ``auto`` is the fastest one that works reliably on the device."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "mps":
        return "bfloat16" if _mps_has_bfloat16() else "float16"
    return "bfloat16" if machine.cpu_has_bfloat16() else "float32"


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch type of a precision by its name."""
    return _DTYPES[precision]


def _mps_has_bfloat16() -> bool:
    try:
        torch.zeros(1, dtype=torch.bfloat16, device="mps")
    except (TypeError, RuntimeError):  # macOS 13 and older
        return False
    return True


# --- waiting --------------------------------------------------------------------------------


def synchronise(device: str) -> None:
    """Wait until the device has finished all work submitted to it."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


class Fence:
    """Keeps Python from running far ahead of an asynchronous device, so that a cancel takes effect soon.

    At every ``every``-th :meth:`tick` it records an event and waits for the one before it. The device always has work
    queued, but never more than two groups of blocks. On the CPU it does nothing.
    """

    def __init__(self, device: str, every: int = 4) -> None:
        self._device = device
        self._every = every
        self._count = 0
        self._mark: Any = None

    def tick(self) -> None:
        if self._device == "cpu":
            return
        self._count += 1
        if self._count % self._every:
            return
        if self._mark is not None:
            self._mark.synchronize()
        self._mark = torch.cuda.Event() if self._device == "cuda" else torch.mps.Event()
        self._mark.record()

    def reset(self) -> None:
        self._mark, self._count = None, 0


# --- memory ---------------------------------------------------------------------------------


def machine_of(device: str, reserved: int) -> machine.Machine:
    """Return the memory that a plan for ``device`` may use.

    :param reserved: bytes that other daemons' engines hold or were promised.
    """
    if device != "cuda":
        return machine.of_engine(unified=device == "mps", reserved=reserved)
    free, total = torch.cuda.mem_get_info()
    available = free + torch.cuda.memory_reserved()
    return machine.Machine(kind="gpu", total=total, available=available, reserved=reserved)


def footprint(device: str) -> int:
    """Return the process's current memory in bytes, as reported by the operating system, plus its CUDA memory."""
    return memory.resident() + (torch.cuda.memory_reserved() if device == "cuda" else 0)


def peak(device: str) -> int:
    """Return the process's peak memory in bytes, counted as in :func:`footprint`."""
    return memory.peak() + (torch.cuda.max_memory_reserved() if device == "cuda" else 0)


def release(device: str) -> None:
    """Return unreferenced memory to the system."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def memory_fault(error: BaseException, device: str) -> EngineError | None:
    """Return InsufficientMemory, with the figures that are known, if ``error`` is a failed allocation; else None."""
    text = str(error)
    is_torch = isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
    if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_torch):
        return None
    figures = {"available": torch.cuda.mem_get_info()[0] if device == "cuda" else machine.host_memory()[1]}
    if wanted := _WANTED.search(text):
        figures["needed"] = int(float(wanted[1]) * _UNITS[wanted[2]])
    return EngineError("InsufficientMemory", "The model ran out of memory on this device.", **figures)
