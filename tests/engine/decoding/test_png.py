"""Every kind of PNG gives the samples that it holds, and damage outside the picture data does not matter."""

import contextlib
import io
import itertools
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import decoding
from support.image_files import (
    CHANNELS,
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    chunk,
    encoded,
    png_header,
    png_of,
    png_of_samples,
    raw_png,
)

DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
KINDS = [
    (colour, depth, interlaced, clear)
    for colour, depths in DEPTHS.items()
    for depth, interlaced, clear in itertools.product(depths, (False, True), (False, True))
    if not (clear and colour in (GREY_ALPHA, RGB_ALPHA))
]
WIDTH, HEIGHT = 19, 13


def pixels(data):
    return np.asarray(decoding.picture(data).image).astype(int)


def samples_of(colour, depth):
    rng = np.random.default_rng(colour * 100 + depth)
    found = rng.integers(0, 1 << depth, (HEIGHT, WIDTH, CHANNELS[colour]))
    found[2:5, 3:9] = found[0, 0]  # more than one pixel of the transparent colour
    if colour == RGB:
        found[6, 3:9] = found[0, 0] ^ [0, 0, 1]  # and a neighbouring colour that is not transparent
    return found


def table(colour, depth, samples, palette, palette_alpha, clear):
    """Return colours (0 … 255) and alpha (0 … 1) as the standard defines them."""
    top = (1 << depth) - 1
    if colour == PALETTE:
        index = samples[..., 0]
        return palette[index].astype(float), np.where(clear, palette_alpha[index] / 255, 1.0)
    levels = np.floor(samples / top * 255 + 0.5)
    if colour in (GREY_ALPHA, RGB_ALPHA):
        return levels[..., :-1], levels[..., -1] / 255
    return levels, np.where(clear & (samples == samples[0, 0]).all(-1), 0.0, 1.0)


@pytest.mark.parametrize(("colour", "depth", "interlaced", "clear"), KINDS)
def test_every_kind_has_its_samples_and_its_transparency(colour, depth, interlaced, clear):
    samples, rng = samples_of(colour, depth), np.random.default_rng(7)
    palette, alpha = rng.integers(0, 256, (1 << depth, 3))[:256], rng.integers(0, 256, 1 << depth)[:256]
    extra = [chunk(b"PLTE", palette.astype(np.uint8).tobytes())] if colour == PALETTE else []
    if clear:
        body = alpha.astype(np.uint8).tobytes() if colour == PALETTE else samples[0, 0].astype(">u2").tobytes()
        extra.append(chunk(b"tRNS", body))
    data = png_of_samples(samples, depth, colour, *extra, interlaced=interlaced)
    colours, opaque = table(colour, depth, samples, palette, alpha, clear)
    expected = colours * opaque[..., None] + 255 * (1 - opaque[..., None])
    assert np.abs(pixels(data) - expected).max() <= 0.5 + 1e-9
    if not colour & 4:  # in the same file as a mask, transparent is 0
        masked = np.asarray(decoding.stencil(data))
        assert set(masked[opaque == 0].tolist()) <= {0}
        if colour == GREY:
            np.testing.assert_array_equal(masked, np.where(opaque == 0, 0, colours[..., 0]))


# One pixel as libpng 1.6.55 decodes it (through imagecodecs), on white; libpng also agrees with every case above.
ONE_PIXEL = {
    "2 bits of grey, all 1, 1 is clear": (2, GREY, [1], [1], 255),
    "2 bits of grey, 2, 1 is clear": (2, GREY, [2], [1], 170),
    "4 bits of grey, 7, 7 is clear": (4, GREY, [7], [7], 255),
    "4 bits of grey, 7, 119 names no sample": (4, GREY, [7], [119], 255),
    "4 bits of grey, 7, 6 is clear": (4, GREY, [7], [6], 119),
    "1 bit of grey, 1, 0 is clear": (1, GREY, [1], [0], 255),
    "1 bit of grey, 0, 1 is clear": (1, GREY, [0], [1], 0),
    "16 bits of colour, clear": (16, RGB, [0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABC], 255),
    "16 bits of colour, its last bit differs": (
        16, RGB, [0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD], (18, 86, 154)),
    "16 bits of colour are rounded": (16, RGB, [0x00FF, 0x80FF, 0xFEFF], None, (1, 128, 254)),
    "16 bits of grey are rounded": (16, GREY, [0x00FF], None, 1),
    "16 bits of grey, half a level": (16, GREY, [0x0080], None, 0),
    "16 bits of grey with alpha": (16, GREY_ALPHA, [0xFEFF, 0xFFFF], None, 254),
    "16 bits of colour with alpha": (16, RGB_ALPHA, [0x00FF, 0x7F80, 0xFFFF, 0xFFFF], None, (1, 127, 255)),
    "8 bits of colour, only the lower byte counts": (8, RGB, [1, 2, 3], [0x0101, 0x0102, 0x0103], 255),
}  # fmt: skip


@pytest.mark.parametrize(("depth", "colour", "sample", "clear", "right"), ONE_PIXEL.values(), ids=ONE_PIXEL)
def test_what_libpng_says(depth, colour, sample, clear, right):
    extra = [] if clear is None else [chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))]
    found = pixels(png_of_samples(np.tile(np.array(sample), (16, 16, 1)), depth, colour, *extra))
    assert found[5, 5].tolist() == list(right if isinstance(right, tuple) else (right,) * 3)


def test_a_large_picture_of_sixteen_bits_has_no_seams():
    samples = np.random.default_rng(1).integers(0, 65536, (600, 40, 3))
    extra = chunk(b"tRNS", samples[599, 39].astype(">u2").tobytes())
    found = pixels(png_of_samples(samples, 16, RGB, extra))
    right = np.floor(samples / 257 + 0.5).astype(int)
    right[599, 39] = 255
    np.testing.assert_array_equal(found, right)


def test_an_index_beyond_the_palette_is_black():
    data = png_of_samples(np.full((16, 16, 1), 9), 8, PALETTE, chunk(b"PLTE", b"\xff\x00\x00"))
    assert pixels(data)[0, 0].tolist() == [0, 0, 0]


# --- what does not matter --------------------------------------------------------------------

PIXELS = np.random.default_rng(2).integers(0, 256, (16, 20, 3))
HEADER, IMAGE = (
    png_header(20, 16, 8, RGB),
    chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in PIXELS))),
)


def control(number, width=20, height=16):
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))


def animation(frames):
    return chunk(b"acTL", struct.pack(">II", frames, 0))


WORKFLOW = b'{"nodes": []}' * 200_000  # 2.6 MB, as node editors write it
GOOD = {
    "compressed text of 2.6 MB": [chunk(b"zTXt", b"workflow\0\0" + zlib.compress(WORKFLOW)), IMAGE],
    "the same as iTXt": [chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(WORKFLOW)), IMAGE],
    "the same after the picture": [IMAGE, chunk(b"zTXt", b"prompt\0\0" + zlib.compress(WORKFLOW))],
    "text that unpacks to 80 MB": [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))), IMAGE],
    "text of many megabytes": [*(chunk(b"tEXt", b"k%d\0" % n + b"x" * (1 << 20)) for n in range(12)), IMAGE],
    "a text of another way of compressing": [chunk(b"zTXt", b"a\0\7nothing"), IMAGE],
    "a profile of another way of compressing": [chunk(b"iCCP", b"icc\0\1nothing"), IMAGE],
    "a profile that unpacks to 80 MB": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(80 << 20))), IMAGE],
    "a profile with a wrong checksum": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"?"), sound=False), IMAGE],
    "a time with a wrong checksum": [chunk(b"tIME", bytes(7), sound=False), IMAGE],
    "a transparent colour with a wrong checksum": [
        chunk(b"tRNS", PIXELS[0, 0].astype(">u2").tobytes(), sound=False), IMAGE],
    "an unknown chunk": [chunk(b"prVt", b"x"), IMAGE],
    "short chunks": [chunk(name, b"") for name in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"eXIf", b"iCCP")]
    + [IMAGE],
    "an animation of 0 frames": [animation(0), IMAGE],
    "two headers of an animation": [animation(2), animation(2), control(0), IMAGE, control(1)],
    "an animation of one frame, which is the picture": [animation(1), control(0), IMAGE],
    "an animation that announces more than it has": [animation(3), control(0), IMAGE],
    "a header of an animation after the picture": [IMAGE, animation(2), control(0), control(1)],
    "a broken header of an animation": [chunk(b"acTL", b"\0"), control(5, 999, 999), IMAGE],
    "a suggested palette": [chunk(b"PLTE", bytes(range(30))), IMAGE],
    "empty and small pieces of the picture": [
        chunk(b"IDAT", b""), *(chunk(b"IDAT", IMAGE[8:-4][at : at + 7]) for at in range(0, len(IMAGE) - 12, 7)),
        chunk(b"IDAT", b"")],
    "something between the pieces of the picture": [
        chunk(b"IDAT", IMAGE[8:100]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", IMAGE[100:-4])],
}  # fmt: skip


@pytest.mark.parametrize("chunks", GOOD.values(), ids=GOOD)
def test_what_is_broken_beside_the_picture_is_nothing_against_it(chunks):
    np.testing.assert_array_equal(pixels(png_of(HEADER, *chunks)), PIXELS)


@pytest.mark.parametrize("end", [-12, -16, -6], ids=["no end", "no checksum of the picture either", "half an end"])
def test_a_picture_whose_end_is_missing_is_whole(end):
    np.testing.assert_array_equal(pixels(png_of(HEADER, IMAGE)[:end]), PIXELS)


def test_bytes_after_the_end_are_nothing_against_it():
    np.testing.assert_array_equal(pixels(png_of(HEADER, IMAGE) + b"PK\3\4" + bytes(99)), PIXELS)


def test_warnings_of_the_image_library_decide_nothing(monkeypatch):
    real = Image.open

    def warned(*args, **options):
        warnings.warn("Image appears to be malformed", stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(Image, "open", warned)
    np.testing.assert_array_equal(pixels(png_of(HEADER, IMAGE)), PIXELS)


# --- what is refused ----------------------------------------------------------------------------

BAD = {
    "a header with a wrong checksum": (png_of(HEADER[:-1] + bytes([HEADER[-1] ^ 1]), IMAGE), "broken"),
    "no header": (png_of(IMAGE), "broken"),
    "a short header": (png_of(chunk(b"IHDR", bytes(12)), IMAGE), "broken"),
    "a depth that the kind has not": (raw_png(16, 16, 4, 2, b"\0" * 200), "broken"),
    "no rows": (raw_png(16, 0, 8, 2, b""), "broken"),
    "no picture": (png_of(HEADER), "without image data"),
    "no palette": (raw_png(16, 16, 8, 3, b"\0" * 17 * 16), "without its palette"),
    "a palette with a wrong checksum": (
        raw_png(16, 16, 8, 3, b"\0" * 17 * 16, chunk(b"PLTE", b"abc", sound=False)), "broken"),
    "half the rows": (raw_png(16, 16, 8, 2, b"\0" * 49 * 8), "incomplete"),
    "all rows but a byte": (raw_png(16, 16, 8, 2, b"\0" * (49 * 16 - 1)), "incomplete"),
    "rows without their passes": (
        png_of(png_header(16, 16, 8, RGB, True), chunk(b"IDAT", zlib.compress(bytes(49 * 16)))), "incomplete"),
    "Apple's private form": (png_of(chunk(b"CgBI", b"\x50\0\x20\2"), HEADER, IMAGE), "Apple"),
    "a chunk that one must know": (png_of(HEADER, chunk(b"NEWx", b""), IMAGE), "unknown critical chunk"),
    "an animation": (png_of(HEADER, animation(2), control(0), IMAGE, control(1)), "animated"),
    "an animation beside the picture": (png_of(HEADER, animation(1), IMAGE, control(0)), "animated"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "why"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_words(data, why):
    with pytest.raises(decoding.ImageError) as caught:
        decoding.picture(data)
    assert why in caught.value.reason


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_pictures_or_refused(seed):
    rng, whole = np.random.default_rng(seed), np.frombuffer(encoded(Image.fromarray(PIXELS.astype(np.uint8))), np.uint8)
    for _ in range(100):
        data = whole[: rng.integers(8, len(whole) + 1)].copy()
        data[rng.integers(8, len(data) + 1, 3) - 1] = rng.integers(0, 256, 3)
        with contextlib.suppress(decoding.ImageError):
            assert decoding.picture(data.tobytes()).image.mode == "RGB"


def test_a_file_of_one_format_is_never_read_as_another():
    gif = io.BytesIO()
    Image.new("P", (16, 16)).save(gif, "GIF")
    with pytest.raises(decoding.ImageError):
        decoding.picture(gif.getvalue())
