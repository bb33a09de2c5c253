"""Splitting bytes into lines: bounded, linear in time, and the same however the stream is cut."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locara_protocol.framing import DEFAULT_MAX_LINE_BYTES, LineSplitter, LineTooLong

STREAM = st.lists(
    st.sampled_from([b"a", b"\n", b"\r", b" ", b"\t", b"bcd", b"\xff", b"\r\n", b"0123456789"]), max_size=40
)


def split(data: bytes, limit: int, sizes: list[int]) -> list[bytes | LineTooLong]:
    splitter = LineSplitter(limit)
    out = []
    start = 0
    for size in sizes:
        out += splitter.feed(data[start : start + size])
        assert splitter.held_bytes <= limit + 1
        start += size
    return out + splitter.feed(data[start:]) + splitter.finish()


def whole(data: bytes, limit: int) -> list[bytes | LineTooLong]:
    """Return the expected lines, computed the slow way."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [line if len(line) <= limit else LineTooLong(limit) for line in lines if len(line) > limit or line.strip()]


@given(STREAM.map(b"".join), st.integers(1, 12), st.lists(st.integers(0, 5), max_size=30))
def test_any_cutting_of_the_stream_gives_the_same_lines(data, limit, sizes):
    assert split(data, limit, sizes) == whole(data, limit)


def test_one_carriage_return_belongs_to_the_ending():
    assert LineSplitter().feed(b"a\r\nb\r\r\n") == [b"a", b"b\r"]


def test_blank_lines_are_skipped():
    assert LineSplitter().feed(b"\n \n\t\r\n\r\nx\n") == [b"x"]


def test_a_line_of_exactly_the_limit_is_served_also_before_crlf():
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcd") == []
    assert splitter.feed(b"\r") == []
    assert splitter.feed(b"\nabcd\n") == [b"abcd", b"abcd"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_one_byte_more_than_the_limit_is_reported(ending):
    assert LineSplitter(4).feed(b"12345" + ending + b"1234\n") == [LineTooLong(4), b"1234"]


def test_an_overlong_line_is_reported_once_as_soon_as_it_is_certain_and_the_next_is_served():
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcde") == [LineTooLong(4)]
    assert splitter.feed(b"fghij") == []
    assert splitter.held_bytes == 0
    assert splitter.feed(b"k\nab\n") == [b"ab"]


def test_a_last_line_without_ending_is_served_at_the_end():
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.finish() == [b"b"]
    assert splitter.finish() == []


def test_an_overlong_line_without_ending_is_reported_once():
    splitter = LineSplitter(2)
    assert splitter.feed(b"abc") == [LineTooLong(2)]
    assert splitter.finish() == []


def test_byte_by_byte_feeding_takes_linear_time():
    def seconds(count: int) -> float:
        splitter = LineSplitter(DEFAULT_MAX_LINE_BYTES)
        started = time.process_time()
        for _ in range(count):
            splitter.feed(b"x")
        assert len(splitter.finish()[0]) == count
        return time.process_time() - started

    assert seconds(200_000) < 40 * max(seconds(20_000), 0.005)


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        LineSplitter(0)
