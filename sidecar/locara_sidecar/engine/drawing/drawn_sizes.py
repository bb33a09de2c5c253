"""Which sizes a model's files can be drawn at: its catalogue entry may promise more than the model that is installed
under its id has positions for, or sizes that its latents do not fill.

What a job chooses is the job's to change (InvalidParams); a model that cannot even be drawn as its entry has it is not
the entry's (IntegrityError, told when it is imported).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_sidecar.engine.folder.model_folder import broken
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Family
    from locara_sidecar.ipc.frames import JobSpec


def require_default(family: Family, width: int, height: int) -> None:
    """:param width: and ``height``, the entry's own, in pixels.

    :raises EngineError: IntegrityError where the model cannot be drawn at that size.
    """
    longest = family.largest_side
    size = f"and its catalogue entry draws {width} × {height}"
    if longest is not None and max(width, height) > longest:
        raise broken(f"{family.denoiser}/config.json", f"it has positions for {longest} pixels a side, {size}")
    if width % family.grid or height % family.grid:
        reason = f"the model draws sides that are multiples of {family.grid} pixels, {size}"
        raise broken(f"{family.decoder}/config.json", reason)


def require_drawn(family: Family, spec: JobSpec) -> None:
    """:raises EngineError: InvalidParams naming the side and what would do; IntegrityError where none would, or where
    the files do not fit each other and their numbers say nothing."""
    sides, longest = spec.model.sides, family.largest_side
    step = max(sides.multiple_of, family.grid)
    most = sides.maximum if longest is None else min(longest, sides.maximum)
    most = most // step * step
    for name, side in (("width", spec.width), ("height", spec.height)):
        too_long = longest is not None and side > longest
        if not too_long and side % family.grid == 0:
            continue
        family.require_fit()
        require_default(family, sides.minimum, sides.minimum)
        path, what = f"$.options.{name}", f"The {spec.model.id} that is installed"
        if too_long:
            text = f"{what} has positions for {longest} pixels a side, and not for a {name} of {side}; the largest is"
            raise EngineError("InvalidParams", f"{text} {most}.", path=path, maximum=most)
        nearest = min(max(round(side / step) * step, step), most)
        text = f"{what} draws sides that are multiples of {family.grid} pixels, and no {name} of {side}; the nearest is"
        raise EngineError("InvalidParams", f"{text} {nearest}.", path=path, nearest=nearest)
