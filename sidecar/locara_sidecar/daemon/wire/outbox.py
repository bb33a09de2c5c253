"""The output queue: answers first, then the channels' frames, each bounded.

Filled by the event loop, emptied by the writer thread; one lock. It implements three rules of the contract:

- an answer never waits behind another call's frames; the answer of a call with a channel comes after that
  channel's own frames and its end frame;
- a frame gets its ``index`` when it is taken for writing, not when it is queued, so dropping one leaves no gap (Tauri's
  client waits forever for a missing index);
- if the host does not keep up, a channel holds at most :data:`MAX_PENDING` unwritten messages: the newest one absorbs
  what comes after, keeping an earlier preview of the same image if the later has none. On a busy machine the daemon
  itself may come late and find many messages of the engine at once; of these none is lost, up to :data:`MAX_BURST`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from locara_protocol import jsonrpc
from locara_protocol.channel_messages import FRAMES, ChannelEnd, Streamed
from locara_protocol.image_messages import DiffusionStep

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_PENDING = 16
MAX_BURST = 256
"""The most that wait while only the processor is missing: the writer asks for them, or began to write just now."""
_BURST_BYTES = 1 << 20
"""Their previews, at most: a host that reads slowly, but never stops, is not shown what is seconds old."""
_SLOW_SECONDS = 0.1
_REPLACED_BYTES = 2048
HIGH_WATER_BYTES = 4 * 1024 * 1024
"""While more than this is queued, no further line is looked at. Small answers take twice the memory."""


class Channel:
    """One call's channel: its Tauri id, the notification it carries and its unwritten messages."""

    def __init__(self, channel_id: int, notification: str) -> None:
        self.id = channel_id
        self.notification = notification
        self.index = 0
        self.pending: deque[Streamed] = deque()


class _Closing(msgspec.Struct, frozen=True):
    """A channel whose call has ended or moved to another: its frames, the end frame, then the answer if there is one.

    ``weight``: the bytes that it counts for while it waits.
    """

    channel: Channel
    answer: bytes | None
    weight: int


class Outbox:
    """Lines to write; see the module's rules. All methods are thread-safe, and only :meth:`take` blocks.

    :param clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asking = False
        self._written_since = float("-inf")
        self._condition = threading.Condition()
        self._answers: deque[bytes | _Closing] = deque()
        self._streams: deque[Channel] = deque()
        self._answer_bytes = 0
        self._on_room: Callable[[], None] | None = None
        self._closed = False
        self.taken = 0
        """Total bytes taken; grows while the host reads."""

    def answer(self, line: bytes) -> None:
        """Queue a response line (without its LF)."""
        with self._condition:
            self._answers.append(line)
            self._answer_bytes += len(line)
            self._condition.notify()

    def push(self, channel: Channel, message: Streamed) -> None:
        """Queue a message for a channel; the newest pending one absorbs it if the host does not keep up."""
        with self._condition:
            pending = channel.pending
            if len(pending) >= MAX_PENDING and not (self._keeps_up() and _is_small(pending)):
                last = pending.pop()
                if isinstance(message, DiffusionStep) and isinstance(last, DiffusionStep):
                    message = with_preview(message, last)
            elif not pending:
                self._streams.append(channel)
            pending.append(message)
            self._condition.notify()

    def _keeps_up(self) -> bool:
        """Whether the host, as far as we know, reads what is written."""
        return self._asking or self._clock() - self._written_since < _SLOW_SECONDS

    def close_channel(self, channel: Channel, answer: bytes | None, *, replaced: bool = False) -> None:
        """Close the channel: queue the rest of its frames, its end frame and, unless it is in a batch, the call's
        answer.

        :param replaced: the call goes on with another channel. A host may do that any number of times without reading,
            so the frames left on this one count towards the backlog.
        """
        with self._condition:
            if channel in self._streams:
                self._streams.remove(channel)
            weight = _REPLACED_BYTES * (1 + len(channel.pending)) if replaced else 0
            self._answers.append(_Closing(channel, answer, weight))
            self._answer_bytes += len(answer or b"") + weight
            self._condition.notify()

    def backlog(self) -> int:
        """Return the bytes of answers that the host has not read yet."""
        with self._condition:
            return self._answer_bytes

    def is_full(self, on_room: Callable[[], None]) -> bool:
        """Whether too many answers are waiting to be read.

        :param on_room: if so, called once when that changes, by the thread that takes them.
        """
        with self._condition:
            if self._answer_bytes <= HIGH_WATER_BYTES:
                return False
            self._on_room = on_room
            return True

    def close(self) -> None:
        """Close the queue: :meth:`take` returns None once it is empty."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def take(self, max_bytes: int) -> bytes | None:
        """Return the next lines, each with its LF, about ``max_bytes`` at most (one line may be longer).

        Blocks while there are none; None when the outbox is closed and empty.
        """
        with self._condition:
            while not (self._answers or self._streams):
                if self._closed:
                    return None
                self._asking = True
                self._condition.wait()
            self._asking, self._written_since = False, self._clock()
            lines: list[bytes] = []
            size = 0
            while size < max_bytes and (self._answers or self._streams):
                line = self._next_line()
                lines += (line, b"\n")
                size += len(line) + 1
            self.taken += size
            on_room = None
            if self._answer_bytes <= HIGH_WATER_BYTES:
                on_room, self._on_room = self._on_room, None
        if on_room is not None:
            on_room()
        return b"".join(lines)

    def _next_line(self) -> bytes:
        while self._answers:
            head = self._answers[0]
            if isinstance(head, bytes):
                self._answers.popleft()
                self._answer_bytes -= len(head)
                return head
            if head.channel.pending:
                return self._frame(head.channel)
            self._answers.popleft()
            self._answer_bytes -= head.weight
            if head.answer is not None:
                self._answers.appendleft(head.answer)
            return _end(head.channel)
        channel = self._streams.popleft()
        line = self._frame(channel)
        if channel.pending:
            self._streams.append(channel)
        return line

    def _frame(self, channel: Channel) -> bytes:
        message = channel.pending.popleft()
        frame = FRAMES[type(message)](channel=channel.id, index=channel.index, message=message)
        channel.index += 1
        return jsonrpc.encode_notification(channel.notification, frame)


def _is_small(pending: Collection[Streamed]) -> bool:
    """Whether one more message may wait, though many do."""
    if len(pending) >= MAX_BURST:
        return False
    previews = (message.preview for message in pending if isinstance(message, DiffusionStep))
    return sum(len(preview.data) for preview in previews if preview is not UNSET) < _BURST_BYTES


def with_preview(message: DiffusionStep, last: DiffusionStep) -> DiffusionStep:
    """Return the later message, with the earlier one's preview if it has none and both are about the same image."""
    if message.preview is UNSET and last.preview is not UNSET and last.image == message.image:
        return msgspec.structs.replace(message, preview=last.preview)
    return message


def _end(channel: Channel) -> bytes:
    return jsonrpc.encode_notification(channel.notification, ChannelEnd(channel=channel.id, index=channel.index))
