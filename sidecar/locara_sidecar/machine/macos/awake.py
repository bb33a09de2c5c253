"""Keeps the machine awake while a job runs, even if nobody touches the keyboard; its screen may turn off.

macOS: a power assertion, as ``caffeinate -i`` holds one, which ends with the process if nothing else ends it. Elsewhere
nothing is done. A lid that is closed, and the user's own "Sleep", are heeded as always. NOT RUN by us so far.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.machine.macos.darwin import Darwin

REASON = "Locara is drawing a picture"
"""What ``pmset -g assertions`` shows; nothing of the job."""


@contextlib.contextmanager
def awake(mac: Darwin | None = None) -> Generator[None]:
    """Within the block the machine stays awake; where that cannot be had, the block runs all the same."""
    held: tuple[Darwin, int] | None = None
    if sys.platform == "darwin":
        from locara_sidecar.machine.macos import darwin  # loads ctypes

        power = mac or darwin.Darwin()
        with contextlib.suppress(OSError):
            held = power, power.keep_awake(REASON)
    try:
        yield
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                held[0].let_sleep(held[1])
