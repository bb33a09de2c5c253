"""Encodes a picture for a terminal: kitty's and iTerm2's graphics (PNG), sixel, or half blocks.

A character cell is about twice as high as it is wide, so the upper half block "▀" with a foreground and a background
colour shows two square pixels. Colours are 24-bit if the terminal supports them, else from the 256-colour cube.
"""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

STOP = "\x1b\\"
"""Ends any escape sequence that was cut off; no effect if there was none."""
_CHUNK = 4096  # maximum bytes of base64 in one of kitty's sequences
_COLOURS = 128  # of a sixel picture: fewer registers than any current terminal has
_RESET = "\x1b[0m"
_LEVELS = 0, 95, 135, 175, 215, 255  # of the cube, as in xterm
_LEVEL = [min(range(6), key=lambda level: abs(_LEVELS[level] - part)) for part in range(256)]


def fitting(picture: Image, room: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """Return the columns and rows that a picture takes of ``room``, as large as its aspect ratio allows.

    :param cell: width and height of a character cell, in pixels.
    """
    width, height = picture.width / cell[0], picture.height / cell[1]
    scale = min(room[0] / width, room[1] / height)
    return max(1, min(room[0], round(width * scale))), max(1, min(room[1], round(height * scale)))


def kitty(picture: Image, box: tuple[int, int], cell: tuple[int, int], number: int) -> str:
    """Encode for kitty's graphics protocol: a PNG of ``box`` cells that does not move the cursor, without a reply.

    :param number: 1…2^32 - 1; a picture replaces the previous one with the same number.
    """
    data = base64.standard_b64encode(_png(picture, box, cell)).decode()
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    parts: list[str] = []
    for index, chunk in enumerate(chunks):
        first = f"a=T,f=100,q=2,C=1,i={number},p=1,c={box[0]},r={box[1]}," if index == 0 else "q=2,"
        parts.append(f"\x1b_G{first}m={int(index < len(chunks) - 1)};{chunk}{STOP}")
    return "".join(parts)


def iterm2(picture: Image, box: tuple[int, int], cell: tuple[int, int]) -> str:
    """Encode as iTerm2's inline image: a PNG of ``box`` cells."""
    data = _png(picture, box, cell)
    members = f"inline=1;size={len(data)};width={box[0]};height={box[1]};preserveAspectRatio=0"
    return f"\x1b]1337;File={members}:{base64.standard_b64encode(data).decode()}\x07"


def sixel(picture: Image, box: tuple[int, int], cell: tuple[int, int]) -> str:
    """Encode as DEC's sixel graphics: at most ``box`` cells, with a palette of 128 colours."""
    size = box[0] * cell[0], box[1] * cell[1] // 6 * 6 or 6  # whole bands of six rows
    small = picture.convert("RGB").resize(size).quantize(_COLOURS)
    palette = small.getpalette() or []
    width, height = small.size
    data = small.tobytes()
    head = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for colour in sorted(set(data)):
        red, green, blue = (round(part / 255 * 100) for part in palette[3 * colour : 3 * colour + 3])
        head.append(f"#{colour};2;{red};{green};{blue}")
    # a row, as bytes that are 1 where it has the colour, is a large number: six of them make the bits of a band
    ones = {colour: bytes(each == colour for each in range(256)) for colour in set(data)}
    empty = int.from_bytes(b"?" * width)
    bands: list[str] = []
    for top in range(0, len(data), 6 * width):
        rows = [data[start : start + width] for start in range(top, top + 6 * width, width)]
        lines: list[str] = []
        for colour in sorted({colour for row in rows for colour in set(row)}):
            bits = 0
            for bit, row in enumerate(rows):
                if colour in row:
                    bits |= int.from_bytes(row.translate(ones[colour])) << bit
            line = (bits + empty).to_bytes(width).rstrip(b"?")
            lines.append(f"#{colour}" + _RUNS.sub(_run, line).decode())
        bands.append("$".join(lines))
    return "".join(head) + "-".join(bands) + STOP


_RUNS = re.compile(rb"(.)\1{3,}")


def _run(match: re.Match[bytes]) -> bytes:
    return b"!%d%b" % (len(match[0]), match[1])


def blocks(picture: Image, box: tuple[int, int], *, true_colour: bool) -> list[str]:
    """Return a line of half blocks for each row of the box."""
    small = picture.convert("RGB").resize((box[0], 2 * box[1]))
    data = small.tobytes()
    row = 3 * box[0]
    colours = _true if true_colour else _cube
    lines: list[str] = []
    for start in range(0, len(data), 2 * row):
        pairs = ((data[i : i + 3], data[i + row : i + row + 3]) for i in range(start, start + row, 3))
        cells = (f"\x1b[38;{colours(upper)};48;{colours(lower)}m▀" for upper, lower in pairs)
        lines.append("".join(cells) + _RESET)
    return lines


def _true(colour: bytes) -> str:
    return "2;" + ";".join(str(part) for part in colour)


def _cube(colour: bytes) -> str:
    """Return the nearest colour in the 6 × 6 × 6 cube of a 256-colour terminal."""
    red, green, blue = (_LEVEL[part] for part in colour)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def _png(picture: Image, box: tuple[int, int], cell: tuple[int, int]) -> bytes:
    """Encode the picture, scaled down if it has more pixels than are shown, so that a slow connection can carry it."""
    shown = box[0] * cell[0], box[1] * cell[1]
    if picture.width > shown[0] and picture.height > shown[1]:
        picture = picture.resize(shown)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    return file.getvalue()
