"""Detecting what the terminal can show does no harm: nothing hangs, is printed or stays changed."""

import json
import os
import re
import signal
import subprocess
import sys
import termios
import time

import pytest
from PIL import Image

from support.played_terminal import (
    QUESTION,
    PlayedTerminal,
    is_whole,
    iterm2_pictures,
    kitty_pictures,
    sixel_pictures,
)

FIND = """
import json, os
from locara_sidecar.cli.output import terminal
found = terminal.find(os.environ, "auto", 1, 0)
print("found", json.dumps(found), flush=True)
"""
SIXEL, NO_SIXEL = b"\x1b[?62;4;22c", b"\x1b[?62;22c"
RUN = [sys.executable, "-m", "locara_sidecar"]


@pytest.fixture
def play():
    """Start a :class:`PlayedTerminal`."""
    terminals = []

    def start(argv, env=None, **more):
        terminals.append(PlayedTerminal(argv, env or {}, **more))
        return terminals[-1]

    yield start
    for each in terminals:
        each.close()


def found_by(terminal):
    """Return what the program detected: (pictures, cell)."""
    status, shown = terminal.end()
    assert status == 0, shown
    assert terminal.settings == terminal.before
    return json.loads(re.search(rb"found (.*)", shown)[1])


@pytest.mark.parametrize(
    ("env", "answer", "pictures", "asked"),
    [
        ({}, SIXEL, "sixel", True),
        ({}, NO_SIXEL, "blocks", True),
        ({}, b"\x1b[?4c", "blocks", True),  # only the terminal's class, no attributes
        ({}, b"\x1b[?6c", "blocks", True),  # Linux's console
        ({"TERM": "xterm-kitty"}, NO_SIXEL, "kitty", False),
        ({"TERM": "xterm-ghostty"}, NO_SIXEL, "kitty", False),
        ({"TERM_PROGRAM": "iTerm.app"}, SIXEL, "iterm2", False),
        ({"LC_TERMINAL": "iTerm2"}, SIXEL, "iterm2", False),
        # the names that tmux and screen pass on are not their own
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux,1,0"}, NO_SIXEL, "blocks", True),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "screen-256color"}, NO_SIXEL, "blocks", True),
        ({"TERM": "xterm-kitty", "STY": "1.pts"}, NO_SIXEL, "blocks", True),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux,1,0"}, b"\x1b[?1;2;4c", "sixel", True),
        ({"NO_COLOR": "1"}, SIXEL, "none", False),
        ({"NO_COLOR": "1", "TERM": "xterm-kitty"}, SIXEL, "none", False),
    ],
)
def test_a_terminal_is_believed_by_name_or_by_what_it_answers(play, env, answer, pictures, asked):
    terminal = play([sys.executable, "-c", FIND], env, answer=answer)
    assert found_by(terminal)[0] == pictures
    assert (QUESTION in terminal.shown) == asked
    assert b"\x1b_" not in terminal.shown, "some terminals print kitty's question"


@pytest.mark.parametrize("wish", ["kitty", "iterm2", "sixel", "blocks", "none"])
def test_who_says_what_the_terminal_shows_is_believed_and_nothing_is_asked(play, wish):
    terminal = play([sys.executable, "-c", FIND.replace('"auto"', f'"{wish}"')], answer=SIXEL)
    assert found_by(terminal)[0] == wish
    assert QUESTION not in terminal.shown


def test_the_size_of_a_cell_is_what_the_terminal_answers_or_what_its_window_tells(play):
    find = [sys.executable, "-c", FIND]
    assert found_by(play(find, answer=b"\x1b[6;20;10t" + SIXEL, cell=(9, 18))) == ["sixel", [10, 20]]
    assert found_by(play(find, answer=SIXEL, cell=(9, 18))) == ["sixel", [9, 18]]
    assert found_by(play(find, answer=b"\x1b[6;0;0t" + SIXEL)) == ["sixel", [8, 16]]
    assert found_by(play(find, {"TERM": "xterm-kitty"}, cell=(7, 15))) == ["kitty", [7, 15]]


@pytest.mark.slow
def test_a_terminal_that_says_nothing_or_nonsense_is_waited_for_a_moment_only(play):
    for answer in (b"", b"\x1b[?62;", b"x" * 5000):
        begun = time.monotonic()
        assert found_by(play([sys.executable, "-c", FIND], answer=answer))[0] == "blocks"
        assert time.monotonic() - begun < 20


def test_what_was_typed_before_is_not_eaten(play):
    terminal = play([sys.executable, "-c", FIND], answer=SIXEL, typed=b"make test\r")
    assert found_by(terminal)[0] == "blocks"
    assert QUESTION not in terminal.shown
    assert terminal.unread() == b"make test\n"


def test_from_the_background_nothing_is_asked(play):
    """The terminal would stop a background process that changes its settings."""
    shell = ["bash", "-mc", f"{sys.executable} -c '{FIND}' & wait"]
    terminal = play(shell, answer=SIXEL)
    assert found_by(terminal)[0] == "blocks"
    assert QUESTION not in terminal.shown


@pytest.mark.parametrize("held", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_terminal_is_asked_waits_until_it_is_as_it_was(play, held):
    terminal = play([sys.executable, "-c", FIND])
    terminal.until(QUESTION)
    assert not terminal.settings[3] & termios.ECHO
    os.kill(terminal.process.pid, held)
    terminal.end()
    assert terminal.settings == terminal.before
    assert terminal.process.returncode == -held


CUT_OFF = """
import os
from locara_sidecar.cli.output import guard

def command(options):
    os.write(1, b"\\x1b[31m\\x1b_Ga=T,f=100,m=1;AAAA")
    raise KeyboardInterrupt

guard.run(command, None)
"""


def test_ctrl_c_in_the_middle_of_a_picture_that_was_cut_off_ends_it(play):
    _, shown = play([sys.executable, "-c", CUT_OFF]).end()
    assert is_whole(shown)
    assert b"cancelled" in shown


# --- the commands ---------------------------------------------------------------------------------


def demo(folder, *words):
    return [*RUN, "demo", "a quiet lake", "--engine", "fake", "--steps", "3", "--out", folder, *words]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "answer", "read"),
    [
        ({"TERM": "xterm-kitty"}, b"", lambda shown: [picture for _, picture in kitty_pictures(shown)]),
        ({"TERM_PROGRAM": "iTerm.app"}, b"", lambda shown: [picture for _, picture in iterm2_pictures(shown)]),
    ],
)
def test_the_last_picture_shown_is_the_one_that_was_saved(play, tmp_path, env, answer, read):
    terminal = play(demo(tmp_path), env, answer=answer)
    status, shown = terminal.end()
    assert (status, is_whole(shown)) == (0, True)
    (file,) = tmp_path.iterdir()
    *previews, last = read(shown)
    assert len(previews) == 3
    with Image.open(file) as saved:
        assert last.tobytes() == saved.convert("RGB").tobytes()
    assert str(file) in shown.decode()
    assert terminal.settings == terminal.before


@pytest.mark.slow
def test_previews_take_the_place_of_each_other_and_the_words_stay_below(play, tmp_path):
    terminal = play(demo(tmp_path), {"TERM": "xterm-kitty"})
    _, shown = terminal.end()
    assert len({members["i"] for members, _ in kitty_pictures(shown)}) == 1
    ((columns, rows),) = {(members["c"], members["r"]) for members, _ in kitty_pictures(shown)}
    assert (int(columns), int(rows)) == (64, 32)
    # down to the words by as many rows as the picture has, then up by one more
    assert shown.count(b"\x1b8\x1b[32B") == 4
    assert shown.count(b"\x1b[33A") == 3


@pytest.mark.slow
def test_a_terminal_with_sixel_shows_what_was_saved(play, tmp_path):
    terminal = play(demo(tmp_path), answer=SIXEL, cell=(8, 16))
    status, shown = terminal.end()
    assert (status, is_whole(shown)) == (0, True)
    (file,) = tmp_path.iterdir()
    last = sixel_pictures(shown)[-1]
    assert last.width == 512
    with Image.open(file) as saved:
        wanted = saved.convert("RGB").resize(last.size)
    for place in ((256, 10), (20, 500), (500, 500)):
        assert last.getpixel(place) == pytest.approx(wanted.getpixel(place), abs=12)
    assert b"\xe2\x96\x80" not in shown


@pytest.mark.slow
@pytest.mark.parametrize(("env", "escapes"), [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)])
def test_a_dumb_terminal_gets_words_and_one_without_colours_a_bar(play, tmp_path, env, escapes):
    terminal = play(demo(tmp_path), {"COLORTERM": "truecolor", **env}, answer=SIXEL)
    status, shown = terminal.end()
    assert (status, b"\x1b" in shown) == (0, escapes)
    assert b"\xe2\x96\x80" not in shown
    assert not re.search(rb"\x1b\[[\d;]*m", shown), "no colour"
    assert not re.search(rb"\x1b[P_\]]", shown), "no picture"
    assert b"done in" in shown


@pytest.mark.slow
def test_a_pipe_gets_no_escape_whatever_the_terminal_is_called(tmp_path):
    names = {"TERM": "xterm-kitty", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "truecolor", "FORCE_COLOR": "1"}
    env = {**os.environ, **names}
    for words in (demo(tmp_path), [*RUN, "models", "list"], [*RUN, "models", "get", "pocket"], [*RUN, "doctor"]):
        done = subprocess.run(words, env=env, capture_output=True, timeout=60)
        assert b"\x1b" not in done.stdout + done.stderr, words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "answer"),
    [
        ({"TERM": "xterm-kitty"}, b""),
        ({"TERM_PROGRAM": "iTerm.app"}, b""),
        ({}, SIXEL),
        ({"COLORTERM": "truecolor"}, NO_SIXEL),
    ],
)
def test_ctrl_c_leaves_the_terminal_as_it_was(play, tmp_path, env, answer):
    words = [*RUN, "demo", "fake:slow=30 a lake", "--engine", "fake", "--steps", "200", "--out", tmp_path]
    terminal = play(words, env, answer=answer)
    terminal.until(b"step 3/200")
    terminal.type(b"\x03")
    status, shown = terminal.end()
    assert status == 130
    assert is_whole(shown)
    assert shown.rstrip().endswith(b"locara-sidecar: The request was cancelled.")
    assert terminal.settings == terminal.before
    assert b"\x1b[?25l" not in shown, "a hidden cursor would stay hidden if we were killed"


@pytest.mark.slow
def test_ctrl_c_while_the_engine_starts_is_for_us_and_not_for_the_daemon(play, tmp_path):
    """At a terminal every process of the group gets the signal, and a daemon ended by it could not answer."""
    for shown in ("“a lake”", "loading the model"):
        terminal = play([*RUN, "demo", "a lake", "--engine", "fake", "--steps", "200", "--out", tmp_path])
        terminal.until(shown.encode())
        terminal.type(b"\x03")
        status, told = terminal.end()
        assert status == 130
        assert told.rstrip().endswith(b"locara-sidecar: The request was cancelled.")
