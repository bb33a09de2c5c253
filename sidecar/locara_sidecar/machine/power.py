"""Whether the system reports that it slows down: Low Power Mode, and the thermal state.

macOS only, from ``NSProcessInfo`` (``isLowPowerModeEnabled``, ``thermalState``). It explains why steps may take longer
than before; by how much is not reported, so the remaining time is always estimated from the latest steps. NOT RUN by
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
    """``thermal_state`` is None if the system returned an unknown number."""

    low_power: bool
    thermal_state: ThermalState | None


def power(mac: Darwin | None = None) -> Power | None:
    """Return what the system reports now; None if it reports nothing."""
    if sys.platform != "darwin":
        return None
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        low, state = (mac or darwin.Darwin()).power()
    except (OSError, AttributeError, ValueError):
        return None
    return Power(low, _STATES[state] if 0 <= state < len(_STATES) else None)
