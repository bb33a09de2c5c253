"""Encodes and decodes :mod:`frames <locara_sidecar.ipc.frames>` on the two private pipes of an engine.

A frame is a 4-byte big-endian length and that many bytes of msgpack, one tagged struct. The daemon never trusts the
length blindly (:data:`MAX_FRAME_BYTES`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.ipc.frames import Command, Event, Generate, Image, JobSpec, Piece, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FRAME_BYTES = 512 * 1024 * 1024
PREAMBLE = b"\n\0LOCARA-ENGINE\0\n"
"""The engine's first bytes on its pipe; whatever the interpreter's start-up code printed before them is skipped."""
MAX_PREAMBLE_BYTES = 64 * 1024
"""How much of that the daemon holds at a time, so that endless noise takes no memory."""
PIECE_BYTES = 1 << 20
MAX_PLAIN_BYTES = 1 << 16
"""The longest event without a picture. One byte of a frame, an empty list, becomes 72 bytes when it is decoded."""
_HEADER = 4

_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_event_decoder = msgspec.msgpack.Decoder(Event)
_long_event_decoder = msgspec.msgpack.Decoder(Image | Step)


class Head(msgspec.Struct, frozen=True):
    """An event's own type and job, read at a fortieth of the cost of decoding a large event.

    If a member appears twice, the last one counts, here as in full decoding; an event with two types is invalid.
    """

    type: str = ""
    job: str | None = None


class FrameError(Exception):
    """The peer broke the framing, or sent something that is not a frame; the pipe cannot be used any more."""


_head_decoder = msgspec.msgpack.Decoder(Head)


def encode(frame: Command | Event) -> bytes:
    """Encode a frame, with its header.

    :raises FrameError: if it is over :data:`MAX_FRAME_BYTES`.
    """
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_HEADER, "big") + body


def in_pieces(command: Command) -> Iterator[Command]:
    """Yield a command as it is sent: an edit's files first, in pieces, because encoding a large file at once would
    block every other thread of the daemon. :class:`Pieces` joins them again.
    """
    if not isinstance(command, Generate) or command.spec.edit is None:
        yield command
        return
    spec, edit = command.spec, command.spec.edit
    for file, data in enumerate([*edit.images, edit.mask or b""]):
        for start in range(0, len(data), PIECE_BYTES):
            yield Piece(job=spec.job, file=file, data=data[start : start + PIECE_BYTES])
    rest = msgspec.structs.replace(edit, images=[b""] * len(edit.images), mask=None if edit.mask is None else b"")
    yield Generate(spec=msgspec.structs.replace(spec, edit=rest))


class Pieces:
    """Joins an edit's command with the pieces of its files, in the order in which they arrive."""

    def __init__(self) -> None:
        self._job = ""
        self._files: dict[int, bytearray] = {}

    def add(self, piece: Piece) -> None:
        """Add a piece; pieces of any other job are dropped."""
        if piece.job != self._job:
            self._clear(piece.job)
        self._files.setdefault(piece.file, bytearray()).extend(piece.data)

    def whole(self, command: Generate) -> JobSpec:
        """Return the job with its files."""
        spec, edit = command.spec, command.spec.edit
        if edit is None:
            return spec
        if spec.job != self._job:
            self._clear(spec.job)
        *images, mask = [bytes(self._files.pop(file, b"")) for file in range(len(edit.images) + 1)]
        self._clear("")
        edit = msgspec.structs.replace(edit, images=images, mask=None if edit.mask is None else mask)
        return msgspec.structs.replace(spec, edit=edit)

    def _clear(self, job: str) -> None:
        self._job = job
        self._files = {}


class FrameReader:
    """Splits bytes into frame bodies; does no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes, most: int = MAX_FRAME_BYTES) -> Iterator[bytes]:
        """Yield every complete frame body.

        :raises FrameError: for a length over ``most``, before any of it is kept.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER:
            size = int.from_bytes(self._buffer[:_HEADER], "big")
            if size > most:
                raise FrameError(f"a frame of {size} bytes is over the limit of {most}")
            if len(self._buffer) < _HEADER + size:
                return
            body = bytes(self._buffer[_HEADER : _HEADER + size])
            del self._buffer[: _HEADER + size]
            yield body


def decode_command(body: bytes) -> Command:
    """Decode a command.

    :raises FrameError: if it is not one.
    """
    try:
        return _command_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"not a command: {error}") from error


def head_of(body: bytes) -> Head:
    """Read an event's type and job.

    :raises FrameError: if it cannot be an event.
    """
    try:
        return _head_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise FrameError(f"not an event: {error}") from error


def decode_event(body: bytes) -> Event:
    """Decode an event.

    :raises FrameError: if it is not one, or is long but neither an image nor a step.
    """
    decoder = _event_decoder if len(body) <= MAX_PLAIN_BYTES else _long_event_decoder
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise FrameError(f"not an event: {error}") from error
