"""Convert pictures with an ICC profile to sRGB, which models are trained on and files show.

A picture's profile is in effect an untrusted program. It is read by Little CMS (in Pillow), in the engine's sandbox, up
to :data:`MAX_PROFILE`. If it is broken, too large or made for other channels, the pixel values stay as they are, with a
warning.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from typing import Any

    from PIL.Image import Image as PilImage

MAX_PROFILE = 4 * 1024 * 1024
"""In bytes. The largest in use, printer profiles, have about three quarters of that."""

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_CLASSES = {"mntr", "scnr", "prtr", "spac"}
_WIDTH = 17  # levels per channel in the sample that tells whether a profile is equivalent to sRGB


def to_srgb(image: PilImage, profile: bytes) -> tuple[PilImage, str | None]:
    """Convert a picture (L, RGB or CMYK) to sRGB (L or RGB). Also returns why its profile was ignored, if it was.

    The intent is relative colorimetric with black point compensation: colours that both spaces have keep their look,
    and out-of-gamut colours are clipped to the nearest one. A profile that moves no colour by more than one level
    counts as sRGB, and nothing is changed.
    """
    plain = image if image.mode == "L" else image.convert("RGB")
    if not profile:
        return plain, "it is broken"
    if len(profile) > MAX_PROFILE:
        return plain, f"it has more than {MAX_PROFILE} bytes"
    try:
        source = _cms().ImageCmsProfile(io.BytesIO(profile))
        space, kind = source.profile.xcolor_space, source.profile.device_class.strip()
        mode = _MODES.get(space)
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode is None or mode != image.mode or kind not in _CLASSES:
            return plain, f"it is for a different kind of picture ({space.strip()}, {kind})"
        transform = _transform(source, mode)
        return (plain, None) if mode != "CMYK" and _changes_nothing(transform, mode) else (transform.apply(image), None)
    except Exception as error:  # noqa: BLE001  Little CMS says what it wants, and Pillow adds to it
        return plain, f"it is broken ({type(error).__name__})"


def _cms() -> Any:
    """Import Pillow's ImageCms. It is only partly typed, and few pictures need it."""
    from PIL import ImageCms

    return ImageCms


def _transform(source: Any, mode: str) -> Any:
    cms = _cms()
    intent, flags = cms.Intent.RELATIVE_COLORIMETRIC, cms.Flags.BLACKPOINTCOMPENSATION
    return cms.buildTransform(source, cms.createProfile("sRGB"), mode, "RGB", intent, flags)


def _changes_nothing(transform: Any, mode: str) -> bool:
    levels = [round(255 * level / (_WIDTH - 1)) for level in range(_WIDTH)]
    if mode == "L":
        sample = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        colours = bytes(part for r in levels for g in levels for b in levels for part in (r, g, b))
        sample = Image.frombytes("RGB", (_WIDTH, _WIDTH * _WIDTH), colours)
    moved = ImageChops.difference(transform.apply(sample), sample.convert("RGB"))
    return moved.point([0, 0, *[255] * 254] * 3).getbbox() is None
