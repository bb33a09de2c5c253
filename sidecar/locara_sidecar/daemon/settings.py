"""What the command line of a daemon fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from locara_sidecar.capability.policy import Policy


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line fixed. Times in seconds."""

    policy: Policy | None
    engine: str
    cache_root: Path
    idle_unload: float
    stall_timeout: float
    queue: int
    max_line_bytes: int
    log_level: str
    flags: frozenset[str] = frozenset()
    compile: bool = False
    prefer_float16: bool = False
    descriptors: Any = None  # a DescriptorSocket, which few hosts pass and which is slow to import
