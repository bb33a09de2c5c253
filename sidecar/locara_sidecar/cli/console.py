"""The terminal: the only module of the command line that prints. Draws small pictures with half blocks.

A character cell is about twice as high as it is wide, so the upper half block "▀" with a foreground and a
background colour shows two square pixels. Colours are 24-bit where ``COLORTERM`` says so, else the 256-colour cube.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_RESET = "\x1b[0m"


class Console:
    """A block of lines that is redrawn in place on a terminal, and plain lines elsewhere."""

    def __init__(self) -> None:
        self.interactive = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._true_colour = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        self._drawn = 0
        self._last_plain = ""

    def line(self, text: str) -> None:
        """A line that stays."""
        self._write(text + "\n")

    def error(self, text: str) -> None:
        """A line on stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def live(self, picture: Image | None, status: str) -> None:
        """Redraw the block: a picture, if there is one, and a status line under it."""
        if not self.interactive:
            # a log or a pipe: each new state once, no pictures
            if status != self._last_plain:
                self._last_plain = status
                self.line(status)
            return
        lines = [] if picture is None else self._half_blocks(picture)
        lines.append(status[: shutil.get_terminal_size().columns - 1])
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._write(up + "\r" + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._drawn = len(lines)

    def settle(self) -> None:
        """Leave the block as it is; what follows goes below."""
        self._drawn = 0

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader (head, less) has seen enough; the interpreter must not flush again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _half_blocks(self, picture: Image) -> list[str]:
        columns, rows = shutil.get_terminal_size()
        scale = min(min(columns - 2, 64) / picture.width, 2 * min(rows - 4, 32) / picture.height)
        size = max(2, round(picture.width * scale)), max(2, 2 * round(picture.height * scale / 2))
        small = picture.convert("RGB").resize(size)
        data = small.tobytes()
        row = 3 * size[0]
        lines: list[str] = []
        for start in range(0, len(data), 2 * row):
            cells = (self._cell(data[i : i + 3], data[i + row : i + row + 3]) for i in range(start, start + row, 3))
            lines.append("  " + "".join(cells) + _RESET)
        return lines

    def _cell(self, upper: bytes, lower: bytes) -> str:
        if self._true_colour:
            return f"\x1b[38;2;{_triple(upper)};48;2;{_triple(lower)}m▀"
        return f"\x1b[38;5;{_cube(upper)};48;5;{_cube(lower)}m▀"


def _triple(colour: bytes) -> str:
    return ";".join(str(part) for part in colour)


def _cube(colour: bytes) -> int:
    """The nearest colour of the 6 × 6 × 6 cube of a 256-colour terminal."""
    red, green, blue = (round(part / 255 * 5) for part in colour)
    return 16 + 36 * red + 6 * green + blue


def bar(fraction: float, width: int = 24) -> str:
    """A progress bar of ``width`` characters for a fraction of 0…1."""
    full = round(max(0.0, min(1.0, fraction)) * width)
    return "█" * full + "░" * (width - full)
