"""Which of Apple's GPUs compute in bfloat16.

An M3's and later ones' do; on an M1 and M2 it is emulated (huggingface/transformers, pull request 40458). Draw Things
says that it is roughly 50 % slower than float16 there ("BF16 and Image Generation Models").
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locara_sidecar.machine.macos.darwin import Darwin

_ARCHITECTURE = re.compile(r"applegpu_g(\d{2})[a-z]")
_NAME = re.compile(r"Apple M(\d+)\b")
_FIRST_ARCHITECTURE, _FIRST_NAME = 15, 3


def lacks_bfloat16(name: str, architecture: str = "") -> bool:
    """Whether a chip's GPU is one without bfloat16; False if the chip is unknown.

    :param name: such as "Apple M2 Pro".
    :param architecture: Metal's name of the GPU, such as "applegpu_g14s". It takes precedence over the chip's name,
        which is a different one in a virtual machine.
    """
    if known := _ARCHITECTURE.fullmatch(architecture):
        return int(known[1]) < _FIRST_ARCHITECTURE
    named = _NAME.match(name)
    return named is not None and int(named[1]) < _FIRST_NAME


def name(mac: Darwin | None = None) -> str:
    """Return the name of this Mac's chip; "" on other systems, or if the system does not report it."""
    if sys.platform != "darwin":
        return ""
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        return (mac or darwin.Darwin()).text("machdep.cpu.brand_string")
    except OSError:
        return ""
