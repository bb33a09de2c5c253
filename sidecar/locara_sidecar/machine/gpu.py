"""The memory of an NVIDIA GPU, from the driver's own library (NVML), because the daemon does not import torch.

Only for ``models.list`` and for leases; the engine asks its device itself before it loads anything.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib import metadata
from typing import Any

_LIBRARY = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def memory() -> tuple[int, int] | None:
    """Return (total, free) bytes of the first GPU visible to CUDA; None if there is none, or torch cannot use it."""
    if _torch_has_no_cuda():
        return None
    try:
        nvml: Any = ctypes.CDLL(_LIBRARY)
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    try:
        device, found = ctypes.c_void_p(), _Memory()
        if _find(nvml, device) != 0 or nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(found)) != 0:
            return None
        return found.total, found.free
    finally:
        nvml.nvmlShutdown()


def _find(nvml: Any, device: ctypes.c_void_p) -> int:
    """Find the GPU and return NVML's status; ``CUDA_VISIBLE_DEVICES`` names GPUs by number or by UUID, none if
    it is empty.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if first.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(device))
    return nvml.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(device))


@functools.cache  # the lookup lists all installed packages
def _torch_has_no_cuda() -> bool:
    """Whether torch is missing, or was built for CPUs only."""
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
