"""PNG: its chunks, and its samples at full depth.

Only the chunks that determine the pixels reach Pillow (PNG, third edition, 5.6 and 11): an error in a text, a time or
an animation header is no reason to reject the picture, but Pillow would. Pillow 13 gets two things wrong, which are
done here instead: the transparent colour of pictures that are not 8 bits deep, and 16-bit colour, of which it keeps
only the upper 8 bits. Both are done piecewise, to need little memory besides the picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageChops

from locara_sidecar.engine.decoding.refusal import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image as PilImage
    from PIL.ImageFile import ImageFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}
_MODES = {_GREY: "L", _RGB: "RGB", _GREY_ALPHA: "LA", _RGB_ALPHA: "RGBA"}
_NAMES = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM"}
"""Chunks that are kept, besides image and animation data: a file may have millions of others."""
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_SRGB_CODES = (1, 13, 0, 1)
"""cICP's code points for full-range sRGB (ITU-T H.273)."""
_SRGB_GAMMA = 45_455
"""gAMA's value for sRGB. libpng, too, takes one within 5 % of it for sRGB."""
_SRGB_POINTS = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
"""cHRM's values for sRGB: x and y of white, red, green and blue. libpng, too, takes those within 0.01 for sRGB."""
_TILE = 256  # pixels; side of the tiles in which pictures are assembled
_PIECE = 1 << 20  # bytes that are decompressed at a time
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of each pass of an interlaced picture (8.2)."""


class Png(NamedTuple):
    """The contents of a PNG.

    ``packed``: the image data, compressed. ``clear``: the transparent colour, a sample per channel. ``still``: whether
    it is a single picture. ``profile``: the ICC profile, still compressed. ``other_space``: whether other
    chunks declare a colour space that is not sRGB.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int
    palette: bytes
    palette_alpha: bytes
    clear: tuple[int, ...] | None
    packed: bytes
    still: bool
    exif: bytes | None
    profile: bytes | None
    other_space: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


def parse(data: bytes) -> Png:
    """Read the chunks of a PNG.

    :raises ImageError: for a file that no decoder accepts.
    """
    found: dict[bytes, bytes] = {}
    image, begun = bytearray(), False
    pictures = hidden = 0
    first = True
    for name, body, sound in _chunks(data):
        _require_known(name, sound, first=first)
        first = False
        if name == b"IDAT":
            image += body
            begun = True
        elif name == b"fcTL":
            hidden += begun and not pictures  # the default image is not part of the animation
            pictures += 1
        elif name == b"acTL":
            found[name] = b"" if begun or name in found else body  # a repeated or late chunk counts as empty
        elif sound and name in _NAMES and (not begun or name == b"eXIf"):
            found.setdefault(name, body)
    if not begun:
        raise ImageError("it is a PNG without image data")
    width, height, depth, colour, interlaced = _header(found[b"IHDR"])
    palette, clear = found.get(b"PLTE", b""), found.get(b"tRNS", b"")
    if colour == _PALETTE and not palette:
        raise ImageError("it is a PNG without its palette")
    return Png(
        width,
        height,
        depth,
        colour,
        interlaced,
        palette,
        clear if colour == _PALETTE else b"",
        _clear_colour(clear, colour, depth),
        bytes(image),
        not _animates(found.get(b"acTL", b"")) or pictures + hidden <= 1,
        found.get(b"eXIf"),
        found.get(b"iCCP"),
        _is_other_space(found, colour),
    )


def decode(png: Png) -> PilImage:
    """Decode to 8 bits per channel: L, RGB, LA, RGBA or, without transparency, P.

    :raises ImageError: if rows are missing.
    """
    _require_all_rows(png)
    if png.depth == 16:
        return _of_16_bits(png)
    image = _opened(png)
    image.load()
    if image.mode == "P":
        return image.convert("RGBA") if png.palette_alpha else image
    image = image.convert("L") if image.mode == "1" else image
    if png.clear is not None:
        scale = 255 // ((1 << png.depth) - 1)
        image.putalpha(_opaque(image, None, [sample * scale for sample in png.clear]))
    return image


def _require_known(name: bytes, sound: bool, *, first: bool) -> None:
    if first and name != b"IHDR":
        # "CgBI" is Xcode's variant; its tools can convert it back
        raise ImageError("it is a PNG in Apple's private variant" if name == b"CgBI" else "it is a broken PNG")
    if name in (b"IHDR", b"PLTE") and not sound:
        raise ImageError("it is a broken PNG")
    if name[:1].isupper() and name not in (b"IHDR", b"PLTE", b"IDAT"):
        raise ImageError(f"it is a PNG with an unknown critical chunk ({name.decode('ascii')})")


# --- chunks -------------------------------------------------------------------------------------


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield name, body and checksum validity of each chunk, including a truncated last one."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if not name.isalpha() or name == b"IEND":
            return
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        yield name, body, data[at - 4 : at] == struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _header(body: bytes) -> tuple[int, int, int, int, int]:
    if len(body) != 13:
        raise ImageError("it is a broken PNG")
    width, height, depth, colour, compression, filters, interlaced = struct.unpack(">IIBBBBB", body)
    known = depth in _DEPTHS.get(colour, ()) and (compression, filters) == (0, 0) and interlaced in (0, 1)
    if not known or not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise ImageError("it is a broken PNG")
    return width, height, depth, colour, interlaced


def _clear_colour(body: bytes, colour: int, depth: int) -> tuple[int, ...] | None:
    """Return the samples of a tRNS chunk, reduced to the bits of the picture's depth (11.3.1.1)."""
    channels = _CHANNELS[colour]
    if colour not in (_GREY, _RGB) or len(body) != 2 * channels:
        return None
    return tuple(sample & ((1 << depth) - 1) for sample in struct.unpack(f">{channels}H", body))


def _is_other_space(found: dict[bytes, bytes], colour: int) -> bool:
    """Whether the chunk that counts (4.3, 11.3.2) declares a colour space other than sRGB without an ICC profile."""
    if b"cICP" in found:
        return tuple(found[b"cICP"]) != _SRGB_CODES
    if b"iCCP" in found or b"sRGB" in found:
        return False
    gamma, points = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    if len(gamma) == 4 and (value := int.from_bytes(gamma)) > 0 and abs(value / _SRGB_GAMMA - 1) > 0.05:
        return True
    if len(points) != 32 or colour in (_GREY, _GREY_ALPHA):
        return False
    return any(abs(a - b) > 1000 for a, b in zip(struct.unpack(">8I", points), _SRGB_POINTS, strict=True))


def _animates(body: bytes) -> bool:
    return len(body) == 8 and 0 < struct.unpack(">I", body[:4])[0] < 1 << 31


def _require_all_rows(png: Png) -> None:
    """Reject truncated image data, for which Pillow would return a picture with black rows.

    :raises ImageError: if rows are missing.
    """
    bits = png.depth * _CHANNELS[png.colour]
    passes = _ADAM7 if png.interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(png.width - x) // dx), -(-(png.height - y) // dy)) for x, y, dx, dy in passes]
    missing = sum(height * (1 + (width * bits + 7) // 8) for width, height in sizes if width > 0 and height > 0)
    stream = zlib.decompressobj()
    for at in range(0, len(png.packed), _PIECE):
        packed = png.packed[at : at + _PIECE]
        while missing > 0 and packed:
            try:
                missing -= len(stream.decompress(packed, _PIECE))
            except zlib.error as error:
                raise ImageError("it is a broken PNG") from error
            packed = stream.unconsumed_tail
    if missing > 0:
        raise ImageError("it is an incomplete PNG")


# --- samples ------------------------------------------------------------------------------------


def _opened(png: Png, colour: int | None = None, depth: int | None = None) -> ImageFile:
    """Open the samples with Pillow, without decoding them, optionally as another colour type and depth."""
    colour = png.colour if colour is None else colour
    header = struct.pack(">IIBBBBB", *png.size, depth or png.depth, colour, 0, 0, png.interlaced)
    chunks = [_chunk(b"IHDR", header)]
    if colour == _PALETTE:
        # an index beyond the palette is black; Pillow uses a grey ramp there
        entries = 1 << png.depth
        chunks.append(_chunk(b"PLTE", png.palette[: 3 * entries].ljust(3 * entries, b"\0")))
        if png.palette_alpha:
            chunks.append(_chunk(b"tRNS", png.palette_alpha[:entries]))
    body = b"".join([SIGNATURE, *chunks, _chunk(b"IDAT", png.packed), _chunk(b"IEND", b"")])
    return Image.open(io.BytesIO(body), formats=("PNG",))


def _of_16_bits(png: Png) -> PilImage:
    """Round samples to 8 bits; the transparent colour is compared at 16 bits."""
    pair = _halves(png)
    clear = None if png.clear is None else [*(sample >> 8 for sample in png.clear), *(s & 255 for s in png.clear)]
    alpha = None if clear is None else Image.new("L", png.size)
    image = pair[0] if len(pair) == 2 else Image.new(_MODES[png.colour], png.size)
    for box in _tiles(png.size):
        upper, lower = _piece(pair, box)
        if alpha is not None and clear is not None:
            alpha.paste(_opaque(upper, lower, clear), box)
        image.paste(_rounded(upper, lower), box)
    del pair
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _tiles(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            yield left, top, min(left + _TILE, width), min(top + _TILE, height)


def _halves(png: Png) -> tuple[PilImage, ...]:
    """Return the upper and lower bytes of 16-bit samples, either as two pictures or as alternating bands of one.

    Grey, with or without alpha, is decoded as 8 bits with twice the channels: that has the same number of bytes per
    pixel, the distance that PNG's filters depend on. Colour is decoded twice, the second time with swapped bytes.
    """
    if png.colour in (_GREY, _GREY_ALPHA):
        image = _opened(png, _GREY_ALPHA if png.colour == _GREY else _RGB_ALPHA, 8)
        image.load()
        return (image,)
    high, low = _opened(png), _opened(png)
    high.load()
    low.tile = [low.tile[0]._replace(args=f"{low.mode};16L")]
    low.load()
    return high, low


def _piece(pair: tuple[PilImage, ...], box: tuple[int, int, int, int]) -> tuple[PilImage, PilImage]:
    """Crop a tile of what :func:`_halves` returned to its upper and lower bytes, each with the picture's channels."""
    pieces = [image.crop(box) for image in pair]
    if len(pieces) == 2:
        return pieces[0], pieces[1]
    bands = pieces[0].split()
    if len(bands) == 2:
        return bands[0], bands[1]
    return Image.merge("LA", bands[::2]), Image.merge("LA", bands[1::2])


def _rounded(high: PilImage, low: PilImage) -> PilImage:
    """Compute round((256 high + low) / 257), which is ``high`` or differs from it by 1."""
    steps = [int(difference > 128) for difference in range(256)] * len(high.getbands())
    more, less = ImageChops.subtract(low, high).point(steps), ImageChops.subtract(high, low).point(steps)
    return ImageChops.subtract(ImageChops.add(high, more), less)


def _opaque(image: PilImage, lower: PilImage | None, clear: list[int]) -> PilImage:
    """Return a mask (mode L): 0 where all bands of ``image`` (then of ``lower``) equal ``clear``, else 255."""
    differs = Image.new("L", image.size)
    bands = [*image.split(), *(() if lower is None else lower.split())]
    for band, sample in zip(bands, clear, strict=True):
        differs = ImageChops.lighter(differs, band.point([255 * (value != sample) for value in range(256)]))
    return differs
