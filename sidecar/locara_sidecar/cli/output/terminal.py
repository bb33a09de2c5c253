"""Finds out how the terminal can show pictures: from its name, or by a query that every terminal tolerates.

Terminal names are trusted only if there is no multiplexer in between, because it inherits them from outside. All others
are queried for their primary device attributes, which every terminal since the VT100 reports; a 4 among them means
sixel. kitty's own query is not used, because some terminals print it as text.

Why no library: term-image does not allow current Pillow and has no sixel; textual-image has no iTerm2, is LGPL, and
queries while it is imported, with such short timeouts that a slow reply ends up on the screen; rich-pixels has half
blocks only.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

Pictures = Literal["kitty", "iterm2", "sixel", "blocks", "none"]
PICTURES: tuple[Pictures, ...] = ("kitty", "iterm2", "sixel", "blocks", "none")
_PATIENCE = 1.0  # seconds; a later reply would end up on the screen
_PATIENCE_FAR = 3.0  # through ssh
_QUESTION = b"\x1b[16t\x1b[c"  # the cell size, which some report, and the attributes, which all do, so they come last
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_CELL = re.compile(rb"\x1b\[6;(\d{1,3});(\d{1,3})t")
_USUAL_CELL = 8, 16
_NAMED: tuple[tuple[str, str, Pictures], ...] = (
    ("TERM", "xterm-kitty", "kitty"),
    ("TERM", "xterm-ghostty", "kitty"),
    ("TERM_PROGRAM", "iTerm.app", "iterm2"),
    ("LC_TERMINAL", "iTerm2", "iterm2"),  # passed on by ssh
    ("TERM_PROGRAM", "WezTerm", "iterm2"),
    ("TERM_PROGRAM", "mintty", "iterm2"),
)


class Terminal(NamedTuple):
    """``cell``: width and height of a character in pixels, if the terminal reports them, else typical small values."""

    pictures: Pictures
    cell: tuple[int, int] = _USUAL_CELL


class Answer(NamedTuple):
    """A terminal's reply. ``attributes``: without the first, its class; empty if it did not reply."""

    attributes: frozenset[int] = frozenset()
    cell: tuple[int, int] | None = None


def find(environ: Mapping[str, str], wish: str, screen: int, keys: int | None) -> Terminal:
    """Return what a terminal supports, unless it is a dumb one.

    :param screen: the descriptor that writes to it.
    :param keys: the one that reads from it; without one, the terminal is not queried.
    :param wish: one of :data:`PICTURES`, which is used without a query, or ``auto``.
    """
    if environ.get("NO_COLOR") or wish == "none":
        return Terminal("none")
    patience = _PATIENCE_FAR if environ.get("SSH_TTY") else _PATIENCE
    kind = wish if wish != "auto" else _by_name(environ)
    answer = Answer() if kind is not None or keys is None else ask(screen, keys, patience)
    if kind is None:
        kind = "sixel" if 4 in answer.attributes else "blocks"
    return Terminal(next(each for each in PICTURES if each == kind), answer.cell or _cell_of_the_window(screen))


def _by_name(environ: Mapping[str, str]) -> Pictures | None:
    within = any(environ.get(name) for name in ("TMUX", "STY", "ZELLIJ"))
    if within or environ.get("TERM", "").startswith(("tmux", "screen")):
        return None
    return next((kind for variable, name, kind in _NAMED if environ.get(variable) == name), None)


def ask(screen: int, keys: int, patience: float) -> Answer:
    """Return the terminal's reply within ``patience`` seconds; none if a query could do harm: from the background,
    where it would stop us, or after something was typed, which would be lost.
    """
    if os.name != "posix":
        return Answer()
    import termios
    import tty

    try:
        if os.ttyname(screen) != os.ttyname(keys) or os.tcgetpgrp(keys) != os.getpgrp():
            return Answer()
        before = termios.tcgetattr(keys)
    except (OSError, termios.error):
        return Answer()
    with _uninterrupted():
        try:
            tty.setcbreak(keys, termios.TCSANOW)  # leaves Ctrl-C working, and does not echo the reply
            if select.select([keys], [], [], 0)[0]:
                return Answer()
            os.write(screen, _QUESTION)
            return _understood(_read(keys, time.monotonic() + patience))
        except (OSError, termios.error):
            return Answer()
        finally:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(keys, termios.TCSANOW, before)


def _read(keys: int, deadline: float) -> bytes:
    """Read until the attributes have arrived, which come last."""
    got = b""
    while _ATTRIBUTES.search(got) is None and (left := deadline - time.monotonic()) > 0 and len(got) < 4096:
        if not select.select([keys], [], [], left)[0] or not (more := os.read(keys, 256)):
            break
        got += more
    return got


def _understood(answer: bytes) -> Answer:
    attributes, cell = _ATTRIBUTES.search(answer), _CELL.search(answer)
    numbers = [int(each) for each in attributes[1].split(b";") if each] if attributes else []
    size = (int(cell[2]), int(cell[1])) if cell else (0, 0)
    return Answer(frozenset(numbers[1:]), size if _is_a_size(size) else None)


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Hold back signals that would end or stop the process while the terminal's mode is changed."""
    if sys.platform == "win32":
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cell_of_the_window(screen: int) -> tuple[int, int]:
    if os.name != "posix":
        return _USUAL_CELL
    import fcntl
    import struct
    import termios

    try:
        window = fcntl.ioctl(screen, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return _USUAL_CELL
    rows, columns, width, height = struct.unpack("HHHH", window)
    size = (width // columns, height // rows) if rows and columns else (0, 0)
    return size if _is_a_size(size) else _USUAL_CELL


def _is_a_size(cell: tuple[int, int]) -> bool:
    return all(4 <= side <= 100 for side in cell)
