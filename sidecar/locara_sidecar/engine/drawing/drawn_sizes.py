"""Check which sizes a model's files can produce.

A catalogue entry may allow more than the model installed under its id supports: more pixels than it has positions for,
or sides that its latents cannot represent. A size chosen by the job is reported as InvalidParams, since the job can
change it. A model that cannot produce even its entry's own size does not match that entry: IntegrityError, raised on
import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_sidecar.engine.folder.model_folder import broken
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Family
    from locara_sidecar.ipc.frames import JobSpec


def require_default(family: Family, width: int, height: int) -> None:
    """Require that the model can produce the catalogue entry's own size.

    :param width: and ``height``: the entry's default size, in pixels.
    :raises EngineError: IntegrityError if it cannot.
    """
    longest = family.largest_side
    size = f"but its catalogue entry's default is {width} × {height}"
    if longest is not None and max(width, height) > longest:
        raise broken(f"{family.denoiser}/config.json", f"it supports at most {longest} pixels per side, {size}")
    if width % family.grid or height % family.grid:
        reason = f"the sides of its pictures must be multiples of {family.grid} pixels, {size}"
        raise broken(f"{family.decoder}/config.json", reason)


def require_drawn(family: Family, spec: JobSpec) -> None:
    """Require that the model can produce the job's size.

    :raises EngineError: InvalidParams naming the side and a size that works; IntegrityError if no size works, or if the
        files do not match each other, so that their numbers mean nothing.
    """
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
        path, what = f"$.options.{name}", f"The installed {spec.model.id}"
        if too_long:
            text = f"{what} supports at most {longest} pixels per side, not a {name} of {side}; the largest is"
            raise EngineError("InvalidParams", f"{text} {most}.", path=path, maximum=most)
        nearest = min(max(round(side / step) * step, step), most)
        text = f"{what} needs sides that are multiples of {family.grid} pixels, not a {name} of {side}; the nearest is"
        raise EngineError("InvalidParams", f"{text} {nearest}.", path=path, nearest=nearest)
