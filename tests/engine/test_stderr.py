"""Lines from native libraries are bounded and contain no prompts."""

from __future__ import annotations

import pytest

from locara_sidecar.daemon.engine_host.output.stderr import LineLimiter, PromptFilter


def limiter():
    now = [0.0]
    return LineLimiter(clock=lambda: now[0]), now


def test_lines_come_out_whole_however_they_arrive():
    lines, _ = limiter()
    assert lines.feed(b"one\ntw") == ["one"]
    assert lines.feed(b"o\n\n\r\nthree") == ["two"]
    assert lines.end() == ["three"]


def test_a_long_line_is_cut_and_costs_no_memory():
    lines, _ = limiter()
    for _ in range(1000):
        assert lines.feed(b"x" * 4096) == []
    [line] = lines.feed(b"\n")
    assert line == "x" * 2048 + " …"
    assert lines.feed(b"short\n") == ["short"]


def test_a_flood_is_counted_instead_of_kept():
    lines, now = limiter()
    assert len(lines.feed(b"noise\n" * 10_000)) == 200
    now[0] = 1.0
    assert lines.feed(b"later\n") == ["(9800 lines left out)", "later"]


def test_a_progress_bar_is_one_line():
    lines, _ = limiter()
    assert lines.feed(b" 10%\r 50%\r100%\n") == ["100%"]


@pytest.mark.parametrize(
    ("prompt", "line", "kept"),
    [
        ("a watercolour of Zanzibar at dawn", "truncated: ['of zanzibar at dawn']", False),
        ("a watercolour of Zanzibar at dawn", "token water colour - of zan ##zibar", False),
        ("a watercolour of Zanzibar at dawn", "CUDA driver is too old", True),
        ("cat", "the prompt was: Cat!", False),
        ("cat", "concatenate failed", True),
        ("", "anything", True),
    ],
)
def test_a_line_that_quotes_the_prompt_is_withheld(prompt, line, kept):
    prompts = PromptFilter()
    prompts.watch(prompt, "")
    assert (prompts.clean(line) == line) is kept
