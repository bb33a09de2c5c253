"""How :mod:`frames <locara_sidecar.ipc.frames>` cross a private pipe, one each way.

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
"""The engine's first bytes on its pipe; what start-up code of the interpreter printed before them is skipped."""
MAX_PREAMBLE_BYTES = 64 * 1024
"""How much of that the daemon holds at a time, so that endless noise costs no memory."""
PIECE_BYTES = 1 << 20
MAX_PLAIN_BYTES = 1 << 16
"""The longest event without a picture. What a frame says in a byte, an empty list, takes 72 here once it is decoded."""
_HEADER = 4

_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_event_decoder = msgspec.msgpack.Decoder(Event)
_long_event_decoder = msgspec.msgpack.Decoder(Image | Step)


class Head(msgspec.Struct, frozen=True):
    """What an event is and whose, as it says itself: known at a fortieth of what decoding a large one takes.

    Of a job that is there twice the last counts, here and when it is decoded; an event with two types is none.
    """

    type: str = ""
    job: str | None = None


class FrameError(Exception):
    """The peer broke the framing or sent something that is no frame; the pipe is of no further use."""


_head_decoder = msgspec.msgpack.Decoder(Head)


def encode(frame: Command | Event) -> bytes:
    """One frame, header included.

    :raises FrameError: when it is over :data:`MAX_FRAME_BYTES`.
    """
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_HEADER, "big") + body


def in_pieces(command: Command) -> Iterator[Command]:
    """The command as it is sent: the files of an edit go first, in pieces, because encoding a large one at once would
    hold up every other thread of the daemon. :class:`Pieces` puts them together again.
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
    """Commands with their pieces, in the order in which they arrive."""

    def __init__(self) -> None:
        self._job = ""
        self._files: dict[int, bytearray] = {}

    def add(self, piece: Piece) -> None:
        """One more; those of another job are forgotten."""
        if piece.job != self._job:
            self._clear(piece.job)
        self._files.setdefault(piece.file, bytearray()).extend(piece.data)

    def whole(self, command: Generate) -> JobSpec:
        """The job with its files."""
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
    """Bytes in, frame bodies out; no I/O of its own."""

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
    """:raises FrameError: when it is none."""
    try:
        return _command_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"not a command: {error}") from error


def head_of(body: bytes) -> Head:
    """:raises FrameError: when it is no event at all."""
    try:
        return _head_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise FrameError(f"not an event: {error}") from error


def decode_event(body: bytes) -> Event:
    """:raises FrameError: when it is none, or a long one that is neither an image nor a step."""
    decoder = _event_decoder if len(body) <= MAX_PLAIN_BYTES else _long_event_decoder
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise FrameError(f"not an event: {error}") from error
