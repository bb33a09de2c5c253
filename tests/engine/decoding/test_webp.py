"""WebP files are accepted for their pixels, whatever other data they have."""

import struct

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import decoding
from support.image_files import encoded, riff, riff_chunks

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
LOSSLESS = riff_chunks(encoded(Image.fromarray(PIXELS), "WEBP", lossless=True))
LOSSY = riff_chunks(encoded(Image.fromarray(PIXELS), "WEBP", quality=90))
ALPHA = Image.fromarray(np.dstack([PIXELS, np.full((16, 20), 255, np.uint8)]))
ALPHA.putpixel((0, 0), (0, 0, 0, 0))
TRANSPARENT = riff_chunks(encoded(ALPHA, "WEBP", quality=90))


def extended(flags, width=20, height=16):
    return b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def pixels(data):
    return np.asarray(decoding.picture(data).image)


def test_the_three_kinds_are_what_this_page_takes_them_for():
    assert [[name for name, _ in kind] for kind in (LOSSLESS, LOSSY, TRANSPARENT)] == [
        [b"VP8L"],
        [b"VP8 "],
        [b"VP8X", b"ALPH", b"VP8 "],
    ]


GOOD = {
    "plain": riff(*LOSSLESS),
    "with more after it": riff(*LOSSLESS) + bytes(99),
    "with a length that is too long": b"RIFF" + struct.pack("<I", 1 << 20) + riff(*LOSSLESS)[8:],
    "with a length that is too short": b"RIFF" + struct.pack("<I", 9) + riff(*LOSSLESS)[8:],
    "with flags for what it lacks": riff(extended(0x3C), *LOSSLESS),
    "with a canvas of another size": riff(extended(0, 64, 64), *LOSSLESS),
    "with EXIF and XMP before the picture": riff(extended(0x0C), (b"EXIF", b"?"), (b"XMP ", b"<"), *LOSSLESS),
    "with EXIF that is cut off": riff(extended(0x08), *LOSSLESS, (b"EXIF", b"Exif" * 99))[:-200],
    "with an unknown chunk": riff((b"NEW ", b"123"), *LOSSLESS),
    "an animation of one frame": riff(
        extended(0x12), (b"ANIM", bytes(6)), (b"ANMF", bytes(6) + b"\x13\0\0\x0f\0\0" + bytes(4) + riff(*LOSSLESS)[12:])
    ),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_picture_is_its_pixels_whatever_is_beside_them(data):
    np.testing.assert_array_equal(pixels(data), PIXELS)


def test_a_lossy_picture_with_alpha_lies_on_white():
    found = pixels(riff(*TRANSPARENT, (b"XMP ", b"")))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.abs(found[8:, 8:].astype(int) - pixels(riff(*LOSSY))[8:, 8:]).max() <= 4


BAD = {
    "no picture": riff((b"EXIF", b"?")),
    "an extended header alone": riff(extended(0)),
    "half a picture": riff(*LOSSLESS)[:300],
    "half a lossy picture": riff(*LOSSY)[:200],
    "no chunks": b"RIFF\0\0\0\0WEBP",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_words(data):
    with pytest.raises(decoding.ImageError) as caught:
        decoding.picture(data)
    assert "broken" in caught.value.reason
