"""Decoding takes the memory that was announced: no picture of any kind takes more than its header says."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import decoding
from locara_sidecar.engine.decoding import jpeg, webp
from support.image_files import (
    CHANNELS,
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    chunk,
    encoded,
    icc_profile,
    png_header,
    png_of,
    riff,
    riff_chunks,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel keeps the height of each process")

SIDE = 2048
TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""EXIF that rotates the picture by a quarter turn."""
PROFILE = icc_profile(gamma=1.8)
BESIDE = chunk(b"eXIf", TURNED), chunk(b"iCCP", b"icc\0\0" + zlib.compress(PROFILE))
COLOURS = chunk(b"PLTE", bytes(range(48)) * 16)
DECODER = """
import json, os, sys
from PIL import ImageCms
from locara_sidecar.engine import decoding
from locara_sidecar.machine import memory

data, small, told = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read(), []
for name in ("picture", "stencil"):
    getattr(decoding, name)(small)  # what is imported and kept once
for name in ("picture", "stencil"):
    out, into = os.pipe()
    if os.fork() == 0:
        os.close(out)
        before, said, why = memory.resident(), [], ""
        try:
            getattr(decoding, name)(data, said.append)
        except decoding.ImageError as error:
            why = error.reason
        os.write(into, json.dumps([memory.peak() - before, said, why]).encode())
        os._exit(0)
    os.close(into)
    told.append(json.loads(os.read(out, 1 << 16)))
    os.wait()
print(json.dumps(told))
"""


def png(depth, colour, *extra, size=(SIDE, SIDE), interlaced=False, rows=None):
    """Return a PNG of zeros, or of ``rows``."""
    width, height = size
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    length = sum(high * (1 + (wide * depth * CHANNELS[colour] + 7) // 8) for wide, high in sizes)
    body = zlib.compress(bytes(length) if rows is None else rows, 1)
    return png_of(png_header(width, height, depth, colour, interlaced), *extra, chunk(b"IDAT", body))


def saved(form, mode, size=(SIDE, SIDE), **options):
    return encoded(Image.new(mode, size), form, **options)


def cut(data):
    return data[:-2]


def one_frame(size=(SIDE, SIDE)):
    frames = [Image.new("RGBA", size, (9, 9, 9, level)) for level in (9, 8)]
    chunks = riff_chunks(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0))
    first = [name for name, _ in chunks].index(b"ANMF")
    return riff(*chunks[: first + 1])


CLEAR = {GREY: chunk(b"tRNS", b"\0\1"), RGB: chunk(b"tRNS", b"\0\1\0\1\0\1")}
FULL = {"progressive": True, "subsampling": 0}
KINDS = {
    "PNG of 1 bit": lambda: png(1, GREY, CLEAR[GREY], *BESIDE),
    "PNG of a palette": lambda: png(8, PALETTE, *BESIDE, COLOURS, chunk(b"tRNS", bytes(200))),
    "PNG of grey": lambda: png(8, GREY, CLEAR[GREY], *BESIDE),
    "PNG of 16 bits of grey": lambda: png(16, GREY, CLEAR[GREY], *BESIDE),
    "PNG of 16 bits of grey, interlaced": lambda: png(16, GREY, CLEAR[GREY], interlaced=True),
    "PNG of 16 bits of grey and alpha": lambda: png(16, GREY_ALPHA, *BESIDE),
    "PNG of colour": lambda: png(8, RGB, CLEAR[RGB], *BESIDE),
    "PNG of 16 bits of colour": lambda: png(16, RGB, CLEAR[RGB], *BESIDE),
    "PNG of 16 bits of colour, interlaced": lambda: png(16, RGB, CLEAR[RGB], *BESIDE, interlaced=True),
    "PNG of colour and alpha": lambda: png(8, RGB_ALPHA, *BESIDE),
    "PNG of 16 bits of colour and alpha": lambda: png(16, RGB_ALPHA, *BESIDE),
    "PNG of very long rows": lambda: png(16, RGB_ALPHA, *BESIDE, size=(65535, 64)),
    "PNG of very many rows": lambda: png(16, RGB_ALPHA, *BESIDE, size=(64, 65535)),
    "PNG that nothing compresses": lambda: png(
        16, RGB, rows=b"".join(b"\0" + np.random.default_rng(0).bytes(6 * SIDE) for _ in range(SIDE))
    ),
    "JPEG of grey": lambda: saved("JPEG", "L", exif=b"Exif\0\0" + TURNED),
    "JPEG": lambda: saved("JPEG", "RGB", icc_profile=PROFILE, exif=b"Exif\0\0" + TURNED),
    "JPEG, progressive": lambda: saved("JPEG", "RGB", icc_profile=PROFILE, exif=b"Exif\0\0" + TURNED, **FULL),
    "JPEG of CMYK": lambda: saved("JPEG", "CMYK", exif=b"Exif\0\0" + TURNED),
    "JPEG of CMYK, progressive": lambda: saved("JPEG", "CMYK", exif=b"Exif\0\0" + TURNED, **FULL),
    "JPEG without its end": lambda: cut(saved("JPEG", "RGB", **FULL)),
    "JPEG of CMYK without its end": lambda: cut(saved("JPEG", "CMYK", **FULL)),
    "WebP": lambda: saved("WEBP", "RGB", method=0),
    "WebP and alpha": lambda: saved("WEBP", "RGBA", method=0, icc_profile=PROFILE, exif=b"Exif\0\0" + TURNED),
    "WebP, lossless": lambda: saved("WEBP", "RGB", method=0, lossless=True),
    "WebP and alpha, lossless": lambda: saved("WEBP", "RGBA", method=0, lossless=True, icc_profile=PROFILE),
    "WebP of one frame": one_frame,
}


@pytest.fixture
def taken(tmp_path):
    """Return the bytes that decoding ``data`` takes as a picture and as a mask, the estimates, and the refusals."""

    def run(data):
        for name, content in (("data", data), ("small", png(16, RGB_ALPHA, *BESIDE, size=(16, 16)))):
            (tmp_path / name).write_bytes(content)
        words = [sys.executable, "-c", DECODER, str(tmp_path / "data"), str(tmp_path / "small")]
        done = subprocess.run(words, capture_output=True, check=True, text=True)
        return json.loads(done.stdout)

    return run


@pytest.mark.quick_cases("PNG of 16 bits of colour and alpha", "CMYK without", "and alpha, lossless")
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_takes_no_more_memory_than_it_said_from_its_header(taken, kind):
    data = KINDS[kind]()
    for took, said, why in taken(data):
        assert why == ""
        assert len(said) == 1
        assert took < said[0]
        assert said[0] < 18 * SIDE * SIDE + 5 * len(data) + (9 << 20)


MANY = {
    "chunks of a PNG": lambda: png_of(
        png_header(16, 16, 8, RGB),
        *(chunk(bytes(name), b"") for name in itertools.islice(itertools.product(*[range(97, 123)] * 4), 300_000)),
        chunk(b"IDAT", zlib.compress(bytes(49 * 16))),
    ),
    "pieces of a PNG's picture": lambda: png_of(
        png_header(16, 16, 8, RGB), *[chunk(b"IDAT", b"")] * 300_000, chunk(b"IDAT", zlib.compress(bytes(49 * 16)))
    ),
    "segments of a JPEG": lambda: b"\xff\xd8" + b"\xff\xdb\0\2" * 2_000_000 + saved("JPEG", "RGB", (16, 16))[2:],
    "chunks of a WebP": lambda: riff(*[(b"NEW ", b"")] * 500_000, *riff_chunks(saved("WEBP", "RGB", (16, 16)))),
}


@pytest.mark.quick_cases("JPEG", "WebP")
@pytest.mark.parametrize("what", MANY)
def test_a_file_of_millions_of_empty_parts_takes_a_few_times_its_bytes(taken, what):
    data = MANY[what]()
    for took, said, why in taken(data):
        assert took < 5 * len(data) + (8 << 20)
        assert (said, why[:16]) == ([], "it has more than") if "PNG" not in what else len(said) == 1


HUGE = {
    "a PNG": png_of(png_header(1 << 14, (1 << 12) + 1, 16, RGB_ALPHA), chunk(b"IDAT", b"")),
    "a PNG of one row": png_of(png_header(1 << 16, 1, 8, GREY), chunk(b"IDAT", zlib.compress(bytes(1 + (1 << 16))))),
    "a WebP's canvas": riff(
        (b"VP8X", struct.pack("<I", 0x12) + b"\xff\xff\xff" * 2), (b"ANIM", bytes(6)), (b"ANMF", bytes(40))
    ),
    "a WebP": riff((b"VP8L", b"\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + bytes(9))),
}


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_what_is_too_large_is_refused_before_a_decoder_has_seen_it(monkeypatch, data):
    monkeypatch.setattr(decoding, "_opened", None)
    with pytest.raises(decoding.ImageError, match="67108864 in all are allowed, and 65535 per side"):
        decoding.picture(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_what_is_refused_for_its_memory_is_not_decoded(form):
    def room(needed):
        raise decoding.EngineError("InsufficientMemory", "no", needed=needed)

    for decode in (decoding.picture, decoding.stencil):
        with pytest.raises(decoding.EngineError) as caught:
            decode(saved(form, "RGB", (512, 512)), room)
        assert caught.value.data["needed"] > decoding.HEIGHT[form] << 18


@pytest.mark.parametrize(("kind", "limit"), [(jpeg, jpeg.MAX_SEGMENTS), (webp, webp.MAX_CHUNKS)])
def test_as_many_parts_as_real_files_have_are_taken(kind, limit):
    assert limit > 16 * 255  # the longest profile, and as many of every other kind
    whole = saved("JPEG", "RGB", (16, 16)) if kind is jpeg else saved("WEBP", "RGB", (16, 16))
    if kind is jpeg:
        data = whole[:2] + b"\xff\xfe\0\2" * 4000 + whole[2:]
    else:
        data = riff(*[(b"NEW ", b"")] * 4000, *riff_chunks(whole))
    assert decoding.picture(data).image.size == (16, 16)
