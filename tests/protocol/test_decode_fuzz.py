"""decode_line against a slow reference: it never raises, and it refuses exactly what is not JSON."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locara_protocol.framing import LineSplitter
from locara_protocol.jsonrpc import Batch, Invalid, Notification, Request, StrayResponse, decode_line
from locara_protocol.scan import exceeds_depth

PIECES = [
    "{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud83d", "\\ude00", "\\\\", '\\"', "d800", "é", "😀", " ", "\t",
    "\r", "\x01", "\x7f", "\ufeff", "0", "1", "-", ".", "e", "E+", "1.5", "9" * 20, "true", "false", "null", "NaN",
    '"jsonrpc":"2.0"', '"id":1', '"method":"ping"', '"params":{}', '"x":', "{}", "[]", "\u2028",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=5,
)
MEMBER = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "extra"])
VALUE = st.sampled_from(["2.0", "ping", 1, 1.5, None, True, {}, [], {"a": 1}, "x" * 257]) | JSON
ENVELOPE = st.dictionaries(MEMBER, VALUE, max_size=7)


def is_json(line: bytes, max_depth: int = 64) -> bool:
    """Return whether a line is one JSON text for the standard library and stays within the contract."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        text = line.decode()
        json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
        json.dumps(
            json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=list), ensure_ascii=False
        ).encode()
    except (ValueError, RecursionError):
        return False
    return slow_depth(text) <= max_depth and not text.startswith("\ufeff")


def slow_depth(text: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def is_parse_error(decoded) -> bool:
    return isinstance(decoded, Invalid) and decoded.error.kind == "ParseError"


def check(decoded) -> None:
    """Check that the result is well-formed, whatever the input was."""
    for entry in decoded.entries if isinstance(decoded, Batch) else [decoded]:
        assert isinstance(entry, Request | Notification | StrayResponse | Invalid)
        if isinstance(entry, Request | Notification):
            assert entry.params[:1] in (b"{", b"[")
            json.loads(entry.params)
        if isinstance(entry, Invalid):
            assert entry.error.kind in ("ParseError", "InvalidRequest")


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_without_an_exception(line):
    decoded = decode_line(line)
    check(decoded)
    assert is_parse_error(decoded) == (not is_json(line))


@settings(max_examples=400)
@given(TEXT)
def test_a_parse_error_is_given_exactly_for_what_is_not_json(text):
    line = text.encode()
    decoded = decode_line(line)
    check(decoded)
    assert is_parse_error(decoded) == (not is_json(line))


@pytest.mark.slow
@settings(max_examples=60)
@given(JSON, st.integers(0, 80), st.binary(min_size=1, max_size=2))
def test_one_damaged_place_never_raises(value, place, damage):
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"v": value}}, ensure_ascii=False).encode()
    place = min(place, len(line))
    line = line[:place] + damage + line[place + 1 :]
    decoded = decode_line(line)
    check(decoded)
    assert is_parse_error(decoded) == (not is_json(line))


@settings(max_examples=60)
@given(st.lists(ENVELOPE, max_size=4) | ENVELOPE)
def test_any_envelope_is_decoded_without_an_exception(message):
    decoded = decode_line(json.dumps(message).encode())
    check(decoded)
    assert not is_parse_error(decoded)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_framing_and_decoding_together_never_raise(data, limit):
    splitter = LineSplitter(limit)
    for line in splitter.feed(data) + splitter.finish():
        if isinstance(line, bytes):
            check(decode_line(line))


@given(TEXT, st.integers(0, 6))
def test_the_depth_scan_agrees_with_a_slow_one_on_all_json(text, limit):
    if is_json(text.encode()):
        assert exceeds_depth(text.encode(), limit) == (slow_depth(text) > limit)


@pytest.mark.parametrize("string", [r"\\", r"\"", r"\\\"", r"\\\\", r"\"\\", "[", "]", r"\"]"])
def test_the_depth_scan_knows_where_a_string_ends(string):
    text = f'["{string}",[["{string}"],"{string}"]]'
    assert is_json(text.encode())
    for limit in range(5):
        assert exceeds_depth(text.encode(), limit) == (limit < 3)


@pytest.mark.parametrize("offset", range(-4, 5))
@pytest.mark.parametrize("inner", [r"\"[", r"\\", r"\\\"[{", "[", '","', '",["a"],"', r"\\" * 3 + r"\"]"])
def test_the_depth_scan_is_exact_where_its_pieces_meet(offset, inner):
    """The scan works in pieces of 64 KiB: an escape, a quote or a bracket may fall on a seam."""
    pad = 64 * 1024 + offset - 2
    text = '["' + "x" * pad + inner + '","' + inner + '"]'
    assert is_json(text.encode())
    for limit in (0, 1, 2):
        assert exceeds_depth(text.encode(), limit) == (slow_depth(text) > limit)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[' + b"{}," * 1_300_000 + b"{}]}}",
        b'{"jsonrpc":"2.0","id":1,"method":"x","extra":[' + b"{}," * 1_300_000 + b"{}]}",
        b"[" + b"{}," * 1_300_000 + b"{}]",
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":{' + b'"a":[],' * 600_000 + b'"b":1}}',
        b"[" + '"é",'.encode() * 700_000 + b"1]",
        b"[" * 4_000_000,
    ],
    ids=["params", "skipped", "batch", "members", "text", "brackets"],
)
def test_a_large_line_costs_less_memory_than_twice_itself(line):
    tracemalloc.start()
    try:
        decode_line(line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * len(line) + 1_000_000
