"""Create the engine's runtime, on Linux with the system's OpenBLAS in place of the BLAS in MLX's wheels.

MLX computes products of matrices, and convolutions by them, with a BLAS. Its wheels for Linux contain the reference
implementation, which takes 14 times as long on one thread as OpenBLAS, for matrices of 1024 x 1024. Symbols are looked
up in the process's global scope first. So if OpenBLAS is loaded before MLX is imported, MLX calls it instead. OpenBLAS
is optional, and nothing is installed for it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.engine.drawing.staged import StagedRuntime

_NAME = "libopenblas.so.0"
_NEEDED = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_BEGINS = "OpenBLAS "
"""The beginning of the library's own description."""
_WIDE = "USE64BITINT"
"""Part of the description of a library with 64-bit sizes, which MLX does not pass."""


def create(scratch: str = "", settings: Mapping[str, str] | None = None) -> StagedRuntime:
    """Create the engine's runtime, importing MLX.

    :raises EngineError: EngineUnavailable if the device cannot compute.
    """
    blas = prefer_openblas()
    from locara_sidecar.engine.mlx_engine import runtime

    created = runtime.create(scratch, settings)
    if sys.platform == "linux" and created.device == "cpu":
        created.note = _note(blas)
    return created


def prefer_openblas(name: str = _NAME) -> str | None:
    """Let MLX compute with the system's OpenBLAS and return its name and version; None if that is not possible.

    Call it only in an engine's own process, because libraries imported later, such as torch, would call OpenBLAS, too,
    and only before MLX is imported. It uses one thread, unless ``OPENBLAS_NUM_THREADS`` says otherwise: with two,
    *pocket* took more processor time and was no faster.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    import ctypes  # not on other systems, where it would be useless

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read while the library is loaded
    try:
        library = ctypes.CDLL(name)  # not yet visible to other libraries
        told = library.openblas_get_config
        told.restype = ctypes.c_char_p
        configuration = (told() or b"").decode("ascii", "replace")
        fits = configuration.startswith(_BEGINS) and _WIDE not in configuration
        if not fits or not all(hasattr(library, function) for function in _NEEDED):
            return None
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except (OSError, AttributeError):  # there is no OpenBLAS, or it is another library
        return None
    return " ".join(configuration.split()[:2])


def _note(blas: str | None) -> str:
    if blas is not None:
        return f"It multiplies matrices with the system's {blas}."
    return f"It would draw faster with the system's OpenBLAS ({_NAME}; in Debian and Ubuntu, libopenblas0-pthread)."
