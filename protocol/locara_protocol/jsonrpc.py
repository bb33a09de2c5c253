"""JSON-RPC 2.0 without any I/O: one line in, one decoded message out; answers to bytes.

This module handles the envelope. Decoding has two phases: :func:`decode_line` reads the envelope and leaves ``params``
as raw JSON text; the caller looks up the method, and :func:`decode_params` reads that text as the method's type. This
keeps unknown methods and bad parameters apart, and a large line is not turned into a mass of Python objects before its
purpose is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Raw

from locara_protocol.errors import RpcError
from locara_protocol.params import build_decoder, channel_of, decode_params, has_decoder, parse_channel
from locara_protocol.records import Record
from locara_protocol.scan import exceeds_depth, first_byte, is_utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_MAX_BATCH",
    "DEFAULT_MAX_DEPTH",
    "MAX_ID_BYTES",
    "MAX_SAFE_INTEGER",
    "Batch",
    "Decoded",
    "Entry",
    "Invalid",
    "Notification",
    "Request",
    "StrayResponse",
    "build_decoder",
    "channel_of",
    "decode_line",
    "decode_params",
    "encode_batch",
    "encode_error",
    "encode_notification",
    "encode_result",
    "has_decoder",
    "line_too_long",
    "parse_channel",
]

DEFAULT_MAX_DEPTH = 64
DEFAULT_MAX_BATCH = 64
MAX_ID_BYTES = 256
"""The longest string id, in bytes of UTF-8."""
MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON implementation represents exactly; ids lie within ± this."""


class Request(Record, frozen=True):
    """A call that needs an answer. ``params`` is raw JSON: an object (``{}`` if absent) or, wrongly, an array."""

    id: int | str
    method: str
    params: bytes


class Notification(Record, frozen=True):
    """A message without an id: never answered. ``params`` as in :class:`Request`."""

    method: str
    params: bytes


class StrayResponse(Record, frozen=True):
    """A response object; the sidecar makes no calls, so it is ignored (and logged). ``id`` is set if it is valid."""

    id: int | str | None = None


class Invalid(Record, frozen=True):
    """Something that is not a message: answer it with ``encode_error(id, error)``."""

    id: int | str | None
    error: RpcError


Entry = Request | Notification | StrayResponse | Invalid


class Batch(Record, frozen=True):
    """One or more entries that are answered together, with one array."""

    entries: list[Entry]


Decoded = Entry | Batch


class _Envelope(msgspec.Struct):
    """The relevant members, each as raw JSON, so that a later duplicate always replaces an earlier one."""

    jsonrpc: Raw = Raw()
    id: Raw = Raw()
    method: Raw = Raw()
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


_syntax = msgspec.json.Decoder(Raw)
_envelope = msgspec.json.Decoder(_Envelope)
_string = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()
_INTEGER = re.compile(rb"-?[0-9]{1,16}")
_SURROGATE = re.compile("[\ud800-\udfff]")


# --- decoding --------------------------------------------------------------------------------


def decode_line(line: bytes, *, max_depth: int = DEFAULT_MAX_DEPTH, max_batch: int = DEFAULT_MAX_BATCH) -> Decoded:
    """Decode one line of the wire; never raises, whatever the bytes.

    :param line: the message without its line ending.
    :param max_depth: how deep arrays and objects may be nested.
    :param max_batch: how many entries a batch may have.
    """
    if not is_utf8(line):
        return _parse_error("The line is not valid UTF-8.")
    if exceeds_depth(line, max_depth):
        return _parse_error(f"The message is nested deeper than {max_depth}.")
    try:
        raw = _syntax.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _parse_error("The line is not one valid JSON text.")
    if first_byte(raw) != b"[":
        return _entry(raw)
    entries = _batch_entries(raw, max_batch)
    if entries is None:
        return _invalid(None, f"A batch may have at most {max_batch} entries.", maxBatch=max_batch)
    if not entries:
        return _invalid(None, "A batch must have at least one entry.")
    return Batch([_entry(entry) for entry in entries])


def line_too_long(max_line_bytes: int) -> Invalid:
    """Return what a line over the limit decodes to (InvalidRequest with ``data.maxLineBytes``)."""
    return _invalid(
        None, f"The line is longer than {max_line_bytes} bytes and was not read.", maxLineBytes=max_line_bytes
    )


def _parse_error(message: str) -> Invalid:
    return Invalid(None, RpcError("ParseError", message))


def _invalid(request_id: int | str | None, message: str, **data: Any) -> Invalid:
    return Invalid(request_id, RpcError("InvalidRequest", message, **data))


_batch_decoders: dict[int, msgspec.json.Decoder[Any]] = {}


def _batch_entries(raw: Raw, max_batch: int) -> list[Raw] | None:
    """Return the entries of an array, or None if there are more than ``max_batch``.

    Decoding into an array-like struct with that many fields skips whatever lies beyond them without creating objects;
    a list of five million ``{}`` would be created before its length could be checked.
    """
    decoder = _batch_decoders.get(max_batch)
    if decoder is None:
        fields = [(f"entry{index}", Raw, Raw()) for index in range(max_batch + 1)]
        decoder = msgspec.json.Decoder(cast("type[Any]", msgspec.defstruct("_Entries", fields, array_like=True)))
        _batch_decoders[max_batch] = decoder
    entries = [entry for entry in msgspec.structs.astuple(decoder.decode(raw)) if first_byte(entry)]
    return None if len(entries) > max_batch else entries


def _entry(raw: Raw) -> Entry:
    """Decode one message object; its syntax has been checked already."""
    if first_byte(raw) != b"{":
        return _invalid(None, "A message must be a JSON object.")
    envelope = _envelope.decode(raw)
    has_id = first_byte(envelope.id) != b""
    request_id = _read_id(envelope.id)
    if not first_byte(envelope.method) and (first_byte(envelope.result) or first_byte(envelope.error)):
        return StrayResponse(request_id)
    if has_id and request_id is None:
        return _invalid(
            None,
            f"`id` must be an integer within ±(2^53-1) or a string of at most {MAX_ID_BYTES} bytes.",
        )
    if first_byte(envelope.jsonrpc) != b'"' or _string.decode(envelope.jsonrpc) != "2.0":
        return _invalid(request_id, '`jsonrpc` must be "2.0".')
    if first_byte(envelope.method) != b'"':
        return _invalid(request_id, "`method` must be a string.")
    method = _string.decode(envelope.method)
    match first_byte(envelope.params):
        case b"" | b"n":
            params = b"{}"
        case b"{" | b"[":
            params = bytes(envelope.params)
        case _:
            return _invalid(request_id, "`params` must be an object.")
    return Notification(method, params) if request_id is None else Request(request_id, method, params)


def _read_id(raw: Raw) -> int | str | None:
    """Return the id if it is valid, else None."""
    text = memoryview(raw)
    if first_byte(raw) == b'"':
        if len(text) > 6 * MAX_ID_BYTES + 2:  # not even if every byte came as \\u00XX
            return None
        value = _string.decode(raw)
        return value if len(value.encode()) <= MAX_ID_BYTES else None
    if len(text) > 17 or not _INTEGER.fullmatch(text):
        return None
    number = int(bytes(text))
    return number if abs(number) <= MAX_SAFE_INTEGER else None


# --- encoding --------------------------------------------------------------------------------


def encode(value: Any) -> Raw:
    """Encode a value as JSON that can serve as a result more than once."""
    return Raw(_encode(value))


def encode_result(request_id: int | str, result: Any) -> bytes:
    """Encode a successful response, without line ending. ``result`` is a struct, a dict, or a Raw JSON object."""
    return _encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_error(request_id: int | str | None, error: RpcError) -> bytes:
    """Encode an error response, without line ending."""
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()})


def encode_notification(method: str, params: Any) -> bytes:
    """Encode a notification, without line ending."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


def encode_batch(responses: Sequence[bytes]) -> bytes:
    """Join individually encoded answers into one array; for an empty batch the caller sends nothing."""
    return b"[" + b",".join(responses) + b"]"


def _encode(message: Any) -> bytes:
    """Encode as UTF-8 JSON without raw line breaks, even with invalid Unicode strings or Raw parts with breaks."""
    try:
        encoded = _encoder.encode(message)
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        encoded = _encoder.encode(_replace_surrogates(msgspec.to_builtins(message)))
    if b"\n" in encoded or b"\r" in encoded:  # only a Raw part can contain one: strings are escaped
        encoded = msgspec.json.format(encoded, indent=-1)
    return encoded


def _replace_surrogates(value: Any) -> Any:
    """Return the same tree with U+FFFD for every surrogate code point."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)
        return {_replace_surrogates(key): _replace_surrogates(member) for key, member in members.items()}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [_replace_surrogates(item) for item in items]
    return value
