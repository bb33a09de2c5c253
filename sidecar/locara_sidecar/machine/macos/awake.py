"""Keeps the machine awake while a job runs, even without user input; the display may turn off.

On macOS this is a power assertion like that of ``caffeinate -i``, which ends with the process at the latest. Elsewhere
it does nothing. Closing the lid and the user's own "Sleep" work as always. NOT RUN by us so far.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.machine.macos.darwin import Darwin

REASON = "Locara is drawing a picture"
"""Shown by ``pmset -g assertions``; says nothing about the job."""


@contextlib.contextmanager
def awake(mac: Darwin | None = None) -> Generator[None]:
    """Keep the machine awake within the block; if that is not possible, the block runs all the same."""
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
