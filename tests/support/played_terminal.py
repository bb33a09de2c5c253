"""A simulated terminal for a program: a pseudo-terminal that answers queries like a real one."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time

from PIL import Image

_BEGIN = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it runs in the background
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal its controlling terminal before it becomes the program, as a shell would."""

_SIZE = ("COLUMNS", "LINES")
_NAMES = ("COLORTERM", "NO_COLOR", "FORCE_COLOR", "TMUX", "STY", "ZELLIJ", "TERM_PROGRAM", "LC_TERMINAL", "SSH_TTY")
"""What identifies our own terminal, which the simulated one is not."""

QUESTION = b"\x1b[c"
TOKEN = re.compile(rb"\x1b[P_\]^X].*?(?:\x1b\\|\x07)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-Z\\^-~]|[^\x1b]+", re.DOTALL)
"""One complete escape sequence, or text."""


class PlayedTerminal:
    """:param answer: to :data:`QUESTION`; nothing where empty.
    :param cell: width and height of a character in pixels, as the window's size implies; None if it does not.
    :param typed: what was typed before the program starts.
    """

    def __init__(self, argv, env, *, answer=b"", cell=(0, 0), typed=b"", size=(80, 40)):
        assert sys.platform != "win32"
        self.leader, follower = os.openpty()
        columns, rows = size
        window = struct.pack("HHHH", rows, columns, columns * cell[0], rows * cell[1])
        fcntl.ioctl(follower, termios.TIOCSWINSZ, window)
        self.before = termios.tcgetattr(follower)
        self._answer = answer
        self._follower = follower  # kept open, or what a program leaves unread is lost with it
        self.shown = b""
        os.write(self.leader, typed)
        environment = {name: value for name, value in os.environ.items() if name not in _SIZE + _NAMES}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *(str(word) for word in argv)],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment | {"TERM": "xterm-256color"} | env,
            start_new_session=True,
        )

    def until(self, words, timeout=50):
        """Read until ``words`` were shown (None: until the program ends), and answer queries meanwhile."""
        deadline = time.monotonic() + timeout
        while words is None or words not in self.shown:
            ended = self.process.poll() is not None
            if select.select([self.leader], [], [], 0 if ended else 0.05)[0]:
                self.shown += os.read(self.leader, 65536)
                if self._answer and QUESTION in self.shown:
                    os.write(self.leader, self._answer)
                    self._answer = b""
            elif ended:
                assert words is None, f"it ended and never showed {words!r}: {self.shown[-500:]!r}"
                break
            assert time.monotonic() < deadline, self.shown[-500:]
        return self.shown

    def type(self, keys):
        os.write(self.leader, keys)

    def end(self, timeout=50):
        """Wait for the end; return (status, everything that was shown)."""
        self.until(None, timeout)
        return self.process.wait(), self.shown

    @property
    def settings(self):
        assert sys.platform != "win32"
        return termios.tcgetattr(self._follower)

    def unread(self):
        """Return what was typed but not read."""
        assert sys.platform != "win32"
        os.set_blocking(self._follower, False)
        try:
            return os.read(self._follower, 4096)
        except BlockingIOError:
            return b""

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.leader)
        os.close(self._follower)


def is_whole(shown):
    """Return whether a terminal that received all this is not in the middle of a sequence and has its colours reset."""
    rest = TOKEN.sub(b"", shown)
    colours = re.findall(rb"\x1b\[([\d;]*)m", shown)
    return rest == b"" and (not colours or colours[-1] in (b"", b"0"))


def kitty_pictures(shown):
    """Return (the members of the first sequence, the picture) of each picture that kitty would show."""
    found, members, data = [], None, b""
    for control, payload in re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown):
        pairs = dict(each.split("=") for each in control.decode().split(","))
        assert len(payload) <= 4096
        members, data = (members or pairs), data + payload
        if pairs["m"] == "0":
            found.append((members, _picture(data)))
            members, data = None, b""
    assert members is None, "the last one has no end"
    return found


def iterm2_pictures(shown):
    """Return (the members, the picture) of each picture that iTerm2 would show."""
    return [
        (dict(each.split("=") for each in members.decode().split(";")), _picture(data))
        for members, data in re.findall(rb"\x1b\]1337;File=([^:]*):([^\x07]*)\x07", shown)
    ]


def sixel_pictures(shown):
    """Return each picture that a sixel terminal would show; pixels that were not set are magenta."""
    return [_sixel(body.decode()) for body in re.findall(rb"\x1bP[\d;]*q([^\x1b]*)\x1b\\", shown)]


def _picture(data):
    with Image.open(io.BytesIO(base64.standard_b64decode(data))) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB")


def _sixel(body):
    raster = re.match(r'"1;1;(\d+);(\d+)', body)
    assert raster is not None
    picture = Image.new("RGB", (int(raster[1]), int(raster[2])), (255, 0, 255))
    palette, colour, x, y = {}, None, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", body[raster.end() :]):
        if token[1]:
            colour = int(token[1])
            if token[2]:
                palette[colour] = tuple(round(int(token[part]) * 255 / 100) for part in (2, 3, 4))
        elif token[8]:
            x, y = 0, y + 6 * (token[8] == "-")
        else:
            bits = ord(token[6] or token[7]) - 63
            for column in range(x, x := x + int(token[5] or 1)):
                for bit in range(6):
                    if bits >> bit & 1:
                        picture.putpixel((column, y + bit), palette[colour])
    return picture
