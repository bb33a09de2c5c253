"""Makes what native libraries print in the engine fit for the daemon's log: bounded, and without prompts."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINE = 2048  # bytes
_BURST = 200  # lines
_RATE = 20.0  # lines a second, once the burst is used up
_WINDOW = 10  # length of a run of a prompt's letters and digits that identifies it


class LineLimiter:
    """Bytes in, lines out: long lines are cut, and lines above the rate are counted instead of kept.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = float(_BURST)
        self._last = clock()
        self._dropped = 0
        self._line = bytearray()
        self._cut = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes and the rate allows."""
        now = self._clock()
        self._tokens = min(_BURST, self._tokens + (now - self._last) * _RATE)
        self._last = now
        *complete, rest = data.split(b"\n")
        lines: list[str] = []
        for part in complete:
            self._append(part)
            lines += self._take()
        self._append(rest)
        return lines

    def end(self) -> list[str]:
        """Return the last, unfinished line."""
        return self._take() if self._line else []

    def _append(self, part: bytes) -> None:
        room = _MAX_LINE - len(self._line)
        self._cut = self._cut or len(part) > room
        self._line += part[: max(0, room)]

    def _take(self) -> list[str]:
        raw, cut = bytes(self._line), self._cut
        self._line.clear()
        self._cut = False
        # a progress bar redraws its line: keep the last state
        text = raw.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
        if not text.strip():
            return []
        if self._tokens < 1:
            self._dropped += 1
            return []
        self._tokens -= 1
        lines = [f"({self._dropped} lines left out)"] if self._dropped else []
        self._dropped = 0
        return [*lines, text + " …" if cut else text]


class PromptFilter:
    """Withholds lines that quote a prompt, because libraries print what they truncate.

    A line quotes a prompt when they share a run of ten letters and digits, ignoring spaces and punctuation (tokenizers
    change those), or when it contains the whole of a shorter prompt as words.
    """

    def __init__(self) -> None:
        self._runs: set[str] = set()
        self._short: list[re.Pattern[str]] = []

    def watch(self, *prompts: str) -> None:
        """Keep these texts out of the log from now on, instead of any earlier ones."""
        self._runs.clear()
        self._short.clear()
        for prompt in prompts:
            plain = _plain(prompt)
            if len(plain) >= _WINDOW:
                self._runs.update(plain[i : i + _WINDOW] for i in range(len(plain) - _WINDOW + 1))
            elif prompt.strip():
                self._short.append(re.compile(rf"(?<!\w){re.escape(prompt.strip())}(?!\w)", re.IGNORECASE))

    def clean(self, line: str) -> str:
        """Return ``line``, or a note in its place."""
        plain = _plain(line) if self._runs else ""
        if any(plain[i : i + _WINDOW] in self._runs for i in range(len(plain) - _WINDOW + 1)) or any(
            pattern.search(line) for pattern in self._short
        ):
            return "(a line that quotes the prompt is withheld)"
        return line


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
