"""At which speeds an engine makes a family's pictures: known without importing an engine, so that ``models.list`` can
tell it, and what a job goes by.

The fake engine runs at any speed that it is asked for. MLX has no step caching.
"""

from __future__ import annotations

LEAST_STEPS = 12
"""With fewer steps there is little to foretell from, and little to gain."""

_CACHING: dict[str, frozenset[str]] = {"torch": frozenset({"sd3", "flux", "flux-kontext"})}
"""By engine, the families whose denoiser its step caching knows: ``torch_engine/step_cache.py``."""


def least_steps(engine: str, family: str, speed: str) -> int | None:
    """From how many steps on, of those that really run, ``engine`` can run at ``speed``, a name of the contract's; None
    where it never can. ``exact`` always can."""
    if speed == "exact" or engine == "fake":
        return 1
    return LEAST_STEPS if family in _CACHING.get(engine, ()) else None
