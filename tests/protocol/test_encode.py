"""Every message is sent as one line of UTF-8 JSON, whatever is in it."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locara_protocol import image_messages as images
from locara_protocol.errors import CODES, MEANINGS, RETRYABLE, RpcError
from locara_protocol.jsonrpc import (
    encode_batch,
    encode_error,
    encode_notification,
    encode_result,
    line_too_long,
)

ANY_TEXT = st.text(st.characters(), max_size=20)
SURROGATES = st.text(st.characters(categories=["Cs"]) | st.sampled_from("a\n\r\u2028"), max_size=8)


def one_line(encoded: bytes):
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    return json.loads(encoded.decode())


@given(ANY_TEXT | SURROGATES)
def test_any_string_comes_out_as_one_line_of_utf8(text):
    clean = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    assert one_line(encode_result(1, {"a": [text, {text: (text,)}]}))["result"] == {"a": [clean, {clean: [clean]}]}
    assert one_line(encode_result(1, images.Warning(kind="x", message=text)))["result"]["message"] == clean
    assert one_line(encode_error("x", RpcError("StorageError", text, path=text)))["error"]["data"]["path"] == clean
    assert one_line(encode_notification("x", {"a": text}))["params"] == {"a": clean}


def test_a_raw_result_with_line_breaks_is_put_on_one_line():
    assert one_line(encode_result(1, msgspec.Raw(b'{\r\n "a": [1,\n 2]}')))["result"] == {"a": [1, 2]}


def test_an_error_says_its_kind_and_whether_to_try_again():
    answer = one_line(encode_error(None, RpcError("QueueFull", "Too many jobs are waiting.", limit=16)))
    assert answer == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32013,
            "message": "Too many jobs are waiting.",
            "data": {"kind": "QueueFull", "retryable": True, "limit": 16},
        },
    }


def test_members_left_unset_are_not_sent():
    image = images.ImageResult(mime_type="image/png", width=1, height=1, bytes=1, sha256="", seed=0)
    assert "path" not in one_line(encode_result(1, image))["result"]


def test_a_batch_is_an_array_of_its_answers():
    assert one_line(encode_batch([encode_result(1, {}), encode_result("a", {})])) == [
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": "a", "result": {}},
    ]


def test_an_overlong_line_is_an_invalid_request_that_says_the_limit():
    invalid = line_too_long(1000)
    assert (invalid.id, invalid.error.kind, invalid.error.data) == (None, "InvalidRequest", {"maxLineBytes": 1000})


def test_every_kind_has_a_code_of_its_own_and_a_meaning():
    assert len(set(CODES.values())) == len(CODES)
    assert MEANINGS.keys() == CODES.keys()
    assert CODES.keys() >= RETRYABLE


def test_an_error_of_no_known_kind_cannot_be_made():
    with pytest.raises(KeyError):
        RpcError("Nonsense", "x")
