"""Whether ``serve --prefer-float16`` is worth it on this Mac: steps in both types, and a verdict on their times."""

from __future__ import annotations

from typing import Any

from locara_sidecar.machine import chips
from macos import commands
from macos.commands import HOUR

CASES = (
    *("sd3.5-medium:16", "sdxl-lightning:16", "flux.2-klein-4b:16"),
    *("flux.2-klein-4b:4", "z-image-turbo:4", "flux.1-dev:4"),
)
WORTH = 0.95
"""A step in float16 must take less than this share of one in bfloat16, with every model."""


def half() -> dict[str, Any]:
    """Time a step of each model in bfloat16 and in float16, and say whether to set ``--prefer-float16``."""
    words = ("-m", "fullsize.mlx_step", *CASES, "--precision", "bfloat16", "float16")
    found = commands.read(commands.python(*words, seconds=3 * HOUR))
    told: list[dict[str, Any]] = found.get("told", [])
    return {**found, **judged(told, found.get("stdout", ""))}


def judged(steps: list[dict[str, Any]], said: str) -> dict[str, Any]:
    """Return the ratios of the times and the verdict.

    :param steps: the lines that ``fullsize.mlx_step`` printed.
    :param said: everything that it printed; the first line ends with the chip's name.
    """
    took = {
        (f"{step['model']}:{step['bits']}", step["precision"]): step["stepSeconds"]
        for step in steps
        if "stepSeconds" in step
    }
    cases = [case for case, precision in took if precision == "bfloat16" and (case, "float16") in took]
    ratios = {case: round(took[case, "float16"] / took[case, "bfloat16"], 3) for case in cases}
    chip = said.partition("\n")[0].rpartition(": ")[2]
    return {"ratios": ratios, "verdict": _verdict(ratios, affected=chips.lacks_bfloat16(chip))}


def _verdict(ratios: dict[str, float], *, affected: bool) -> str:
    if not ratios:
        return "unknown: no model was timed in both types"
    faster = {case for case, ratio in ratios.items() if ratio < WORTH}
    if not affected:
        return f"no effect: this chip has bfloat16 (float16 is faster with {len(faster)} of {len(ratios)} models)"
    if len(faster) == len(ratios):
        return "turn it on: serve --prefer-float16 (weights were random: look at pictures from your models, too)"
    slow = sorted(ratios.keys() - faster)
    return f"leave it off: float16 is not worth it with {', '.join(slow)}"
