"""The sizes that a call's images may have. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import invalid_params
from locara_sidecar.models.model_specs import sides_of

if TYPE_CHECKING:
    from locara_protocol.image_messages import GenerateOptions
    from locara_sidecar.ipc.frames import Sides
    from locara_sidecar.models.catalogue import Entry

MAX_INLINE_IMAGE_BYTES = 7 * 1024 * 1024
"""The limit for all images of one inline answer, counted as raw pixels (3 bytes each) in base64."""


def size_of(options: GenerateOptions, entry: Entry, *, inline: bool, edit: bool) -> tuple[int, int, Sides]:
    """Return width and height in pixels, and what the engine may allow if it determines the size itself.

    In an edit, a side that the host did not set is 0: it is the source's, which only the engine learns.

    :raises RpcError: InvalidParams with the nearest allowed size.
    """
    sides = sides_of(entry)
    width = _side(entry, "width", options.width, 0 if edit else entry.defaults.width)
    height = _side(entry, "height", options.height, 0 if edit else entry.defaults.height)
    if width * height > sides.max_pixels:
        raise invalid_params(
            "$.options.width",
            f"{width} × {height} has more pixels than {entry.id} allows ({sides.max_pixels}).",
            maxPixels=sides.max_pixels,
        )
    if not inline:
        return width, height, sides
    count = options.count or 1
    room = MAX_INLINE_IMAGE_BYTES // (count * 4)
    # an unknown side is at least the smallest that the model supports
    if (width or sides.minimum) * (height or sides.minimum) > room:
        size = f" of {width} × {height}" if width and height else ""
        raise invalid_params(
            "$.options.output.mode",
            f"{count} images{size} are too large for one inline answer; save them instead.",
            maxInlineImageBytes=MAX_INLINE_IMAGE_BYTES,
        )
    return width, height, msgspec.structs.replace(sides, max_pixels=min(sides.max_pixels, room))


def _side(entry: Entry, name: str, asked: int | None, usual: int) -> int:
    """Return the requested side, if the model supports it; ``usual`` if none was requested."""
    if asked is None:
        return usual
    sides = entry.sides
    if sides.minimum <= asked <= sides.maximum and asked % sides.multiple_of == 0:
        return asked
    nearest = min(max(round(asked / sides.multiple_of) * sides.multiple_of, sides.minimum), sides.maximum)
    raise invalid_params(
        f"$.options.{name}",
        f"{entry.id} takes a {name} of {sides.minimum} to {sides.maximum} in steps of {sides.multiple_of}; "
        f"the nearest is {nearest}.",
        nearest=nearest,
        minimum=sides.minimum,
        maximum=sides.maximum,
        multipleOf=sides.multiple_of,
    )
