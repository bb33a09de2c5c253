"""How the terminal shows pictures: known from its name, or asked in a way that no terminal minds.

Names of terminals are believed only where no multiplexer is in between, as theirs are inherited from outside. All
others are asked for their primary device attributes, which every terminal since the VT100 answers; a 4 among them means
sixel. kitty's own question is not asked: some terminals print it as text.

Why no library: term-image forbids today's Pillow and has no sixel; textual-image has no iTerm2, is LGPL, and asks while
it is imported, with limits so short that a slow answer lands on the screen; rich-pixels has half blocks only.
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
_PATIENCE = 1.0  # seconds; what comes later would land on the screen
_PATIENCE_FAR = 3.0  # through ssh
_QUESTION = b"\x1b[16t\x1b[c"  # the size of a cell, which some answer, and the attributes, which all do: so the last
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_CELL = re.compile(rb"\x1b\[6;(\d{1,3});(\d{1,3})t")
_USUAL_CELL = 8, 16
_NAMED: tuple[tuple[str, str, Pictures], ...] = (
    ("TERM", "xterm-kitty", "kitty"),
    ("TERM", "xterm-ghostty", "kitty"),
    ("TERM_PROGRAM", "iTerm.app", "iterm2"),
    ("LC_TERMINAL", "iTerm2", "iterm2"),  # comes through ssh
    ("TERM_PROGRAM", "WezTerm", "iterm2"),
    ("TERM_PROGRAM", "mintty", "iterm2"),
)


class Terminal(NamedTuple):
    """``cell``: width and height of a character in pixels, as far as the terminal tells, else small usual ones."""

    pictures: Pictures
    cell: tuple[int, int] = _USUAL_CELL


class Answer(NamedTuple):
    """What a terminal has said. ``attributes``: after the first, its class; empty where it said nothing."""

    attributes: frozenset[int] = frozenset()
    cell: tuple[int, int] | None = None


def find(environ: Mapping[str, str], wish: str, screen: int, keys: int | None) -> Terminal:
    """What a terminal can show, which is no dumb one.

    :param screen: the descriptor that writes to it.
    :param keys: the one that reads from it, if there is one: else nothing is asked.
    :param wish: one of :data:`PICTURES`, which is taken without asking, or ``auto``.
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
    """What the terminal answers within ``patience`` seconds; nothing where asking could do harm: from the background,
    where it would stop us, or when something was typed already, which would be lost."""
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
            tty.setcbreak(keys, termios.TCSANOW)  # leaves Ctrl-C what it is, and shows nothing of what comes
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
    """All that comes until the attributes have; they are answered last."""
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
    """Hold back what would end or stop the process, for as long as the terminal is not as it was."""
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
