"""The terminal: the only module of the command line that prints, so it makes sure that no untrusted text controls the
terminal.

Bars and tables are rich's. The live block is not: rich's hides the cursor, which would stay hidden if the command were
killed, and sends a picture again with every change of the bar.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.cli.output import pictures, terminal
from locara_sidecar.daemon.wire import stdio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from PIL.Image import Image
    from rich.console import RenderableType
    from rich.table import Table

_BAR = 24
_LABEL = 12
_ROOM = 64, 32  # maximum columns and rows of a picture
_MARGIN = 2
_ONE_LINE = 10_000  # columns if the output is not a terminal
_COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal or change the direction of text; line breaks and tabs are allowed."""
_COLOURS = re.compile(r"(\x1b\[[\d;]*m)")
"""The escape sequences that rich itself adds to a text."""


class Console:
    """A block of lines that is redrawn in place on a terminal, and plain lines elsewhere.

    :param preview: how pictures are shown: one of ``terminal.PICTURES``, or ``auto`` for what the terminal supports.
    """

    def __init__(self, preview: str = "auto") -> None:
        if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
            cast("Any", sys.stdout).reconfigure(errors="replace")  # a terminal that cannot encode a character
        self.interactive = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._preview = preview
        self._terminal: terminal.Terminal | None = None
        self._picture: Image | None = None
        self._box = (0, 0)  # of the picture on the screen, in columns and rows
        self._drawn = 0
        self._number = 0
        self._last_plain = ""

    def line(self, text: str) -> None:
        """Print a permanent line."""
        self._write(_harmless(text) + "\n")

    def error(self, text: str) -> None:
        """Print a line on stderr."""
        with contextlib.suppress(OSError, AttributeError):  # closed: nobody wants to read it
            sys.stderr.write(_harmless(text) + "\n")
            sys.stderr.flush()

    def table(self, table: Table) -> None:
        """Print a table as wide as the terminal; elsewhere each row is one line, however long."""
        self._write("".join(f"{line}\n" for line in self._lines(table, self._width())))

    def facts(self, rows: Iterable[tuple[str, str | Table]]) -> None:
        """Print labels with their values, which may be tables; words longer than a line, such as paths and digests, are
        not broken.
        """
        width = max(self._width() - _LABEL, 20)
        for label, told in rows:
            if isinstance(told, str):
                lines = textwrap.wrap(_harmless(told), width, break_long_words=False, break_on_hyphens=False)
            else:
                lines = self._lines(told, width)
            for number, line in enumerate(lines):
                self._write(f"{'' if number else _harmless(label):{_LABEL}}{line}\n")

    def json(self, value: Any) -> None:
        """Print one JSON value in ASCII, so that nothing is lost whatever the output's encoding."""
        import json

        import msgspec

        self.line(json.dumps(msgspec.to_builtins(value), indent=2))

    def look(self) -> None:
        """Find out what the terminal supports, while nothing else is going on."""
        if self.interactive and self._terminal is None:
            keys: int | None = None
            with contextlib.suppress(OSError, ValueError, AttributeError):  # there is none, or it was closed
                keys = sys.stdin.fileno()
            self._terminal = terminal.find(os.environ, self._preview, sys.stdout.fileno(), keys)

    def live(self, picture: Image | None, fraction: float | None, status: str) -> None:
        """Redraw the block: a picture, if there is one, and below it a bar and a line of text.

        :param fraction: how much is done, 0…1; None for no bar.
        """
        if not self.interactive:
            # a log or a pipe: each new state once, no pictures
            plain = status if fraction is None else f"{fraction * 100:3.0f} %  {status}"
            if plain != self._last_plain:
                self._last_plain = plain
                self.line(plain)
            return
        self.look()
        text = ""
        if picture is not None and picture is not self._picture:
            text += self._up(self._drawn) + self._shown(picture)
        else:
            text += self._up(1 if self._drawn else 0)
        self._picture = picture
        self._drawn = self._box[1] + 1
        self._write(f"{text}\r\x1b[2K{self._status(fraction, status)}\n")

    def settle(self) -> None:
        """Leave the block as it is; further output goes below it."""
        self._drawn = self._number = 0
        self._picture, self._box = None, (0, 0)

    def restore(self) -> None:
        """Reset a terminal that Ctrl-C interrupted in the middle of any output."""
        if self.interactive:
            self._write(f"{pictures.STOP}\x1b[0m")

    def _width(self) -> int:
        return shutil.get_terminal_size().columns if self.interactive else _ONE_LINE

    def _lines(self, table: Table, width: int) -> list[str]:
        return [line.rstrip() for line in self._rendered(table, width).splitlines()]

    def _up(self, lines: int) -> str:
        return f"\x1b[{lines}A" if lines else ""

    def _shown(self, picture: Image) -> str:
        """Return the picture from here down, in rows that end at the left border and leave nothing of the old one."""
        found = self._terminal
        if found is None or found.pictures == "none":
            return ""
        columns, rows = shutil.get_terminal_size()
        room = max(1, min(columns - 2 * _MARGIN, _ROOM[0])), max(1, min(rows - 4, _ROOM[1]))
        box = pictures.fitting(picture, room, found.cell)
        height = max(box[1], self._box[1])  # a taller old picture leaves empty rows
        same, self._box = box == self._box, (box[0], height)
        if found.pictures == "blocks":
            half = pictures.blocks(picture, box, true_colour=os.environ.get("COLORTERM", "") in ("truecolor", "24bit"))
            lines = [*half, *[""] * (height - len(half))]
            return "".join(f"\r\x1b[2K{' ' * _MARGIN}{line}\n" for line in lines)
        self._number = self._number or random.getrandbits(31) + 1
        match found.pictures:
            case "kitty":
                data = pictures.kitty(picture, box, found.cell, self._number)
            case "iterm2":
                data = pictures.iterm2(picture, box, found.cell)
            case _:
                data = pictures.sixel(picture, box, found.cell)
        # new rows first, or the screen would scroll under the picture; then back down, wherever it left the cursor
        below = "\n" if same else "\r\x1b[2K\n"
        return f"\r{below * height}{self._up(height)}\x1b[{_MARGIN}C\x1b7{data}\x1b8\x1b[{height}B\r"

    def _status(self, fraction: float | None, words: str) -> str:
        if fraction is None:
            return _harmless(words)[: shutil.get_terminal_size().columns - 1]
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=max(0.0, min(1.0, fraction)), width=_BAR)
        row.add_row(bar, Text(f"{fraction * 100:3.0f} %  {words}", no_wrap=True, overflow="ellipsis"))
        return self._rendered(row, shutil.get_terminal_size().columns - 1).rstrip("\n")

    def _rendered(self, what: RenderableType, width: int) -> str:
        from rich.console import Console as Rich

        rich = Rich(
            file=sys.stdout,
            width=width,
            force_terminal=self.interactive,
            color_system="auto" if self.interactive else None,
        )
        with rich.capture() as captured:
            rich.print(what)
        pieces = _COLOURS.split(captured.get())  # every other one is between two colours
        return "".join(one if number % 2 else _harmless(one) for number, one in enumerate(pieces))

    def _write(self, text: str) -> None:
        if sys.stdout is None:  # closed by the process that started us
            return
        try:
            if _is_non_blocking(sys.stdout):
                stdio.write_all(sys.stdout.fileno(), text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
            else:
                sys.stdout.write(text)
                sys.stdout.flush()
        except OSError as error:
            # the interpreter must not flush again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):  # the reader (head, less) has seen enough
                raise


def _harmless(text: str) -> str:
    """Return a text without anything that would control a terminal. Much of the output comes from an engine, or from a
    model's files.
    """
    return _COMMANDS.sub("\ufffd", text)


def _is_non_blocking(stream: TextIO) -> bool:
    """Whether writing to it may fail temporarily, because a program that shares the terminal or pipe (Node)
    made it so.
    """
    try:
        return os.name == "posix" and not os.get_blocking(stream.fileno())
    except (OSError, ValueError):  # no descriptor
        return False
