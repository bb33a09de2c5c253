"""Whether the machine itself slows what runs on it, as far as its system says: Low Power Mode, and how warm it is.

macOS only, from ``NSProcessInfo`` (``isLowPowerModeEnabled``, ``thermalState``). It tells why steps may take longer
than they did; how much longer nobody says, so the time that is left is always reckoned from the last steps. NOT RUN by
us so far.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from locara_sidecar.machine.macos.darwin import Darwin

ThermalState = Literal["nominal", "fair", "serious", "critical"]
_STATES: tuple[ThermalState, ...] = ("nominal", "fair", "serious", "critical")
"""``NSProcessInfoThermalState``, in the order of its numbers."""


class Power(NamedTuple):
    """``thermal_state`` is None where the system gave a number that is not known."""

    low_power: bool
    thermal_state: ThermalState | None


def power(mac: Darwin | None = None) -> Power | None:
    """What the system says now; None where it says nothing."""
    if sys.platform != "darwin":
        return None
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        low, state = (mac or darwin.Darwin()).power()
    except (OSError, AttributeError, ValueError):
        return None
    return Power(low, _STATES[state] if 0 <= state < len(_STATES) else None)
