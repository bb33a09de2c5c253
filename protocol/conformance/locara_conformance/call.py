"""A request in progress: its answer, and the messages of its channel."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol, cast

from locara_conformance.cases import shorten
from locara_conformance.outcomes import Failed
from locara_conformance.watch import answers
from locara_protocol.errors import CODES

if TYPE_CHECKING:
    from collections.abc import Callable


class Speaker(Protocol):
    """The part of :class:`locara_conformance.peer.Peer` that a call needs."""

    inbox: list[Any]

    def wait(self, what: str, found: Callable[[Any], bool], *, start: int = 0, timeout: float | None = None) -> Any:
        """Return the first message from ``start`` on for which ``found`` is true."""

    def notify(self, method: str, params: Any = None) -> None:
        """Send a notification."""


class Call:
    """A request in progress; made by :meth:`locara_conformance.peer.Peer.start`."""

    def __init__(self, peer: Speaker, id: int | str, method: str, channel: Any, start: int) -> None:
        self.peer, self.id, self.method, self.channel, self._start = peer, id, method, channel, start

    def answer(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the response."""
        return self.peer.wait(f"answer to {self.method}", self._is_mine, start=self._start, timeout=timeout)

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the result; anything else fails the check."""
        answer = self.answer(timeout)
        if not isinstance(answer.get("result"), dict):
            raise Failed(f"{self.method} was answered with {shorten(answer.get('error', answer))}")
        return answer["result"]

    def error(self, kind: str, timeout: float | None = None) -> dict[str, Any]:
        """Return the error; anything but an error of that kind fails the check."""
        answer = self.answer(timeout)
        error = answer.get("error")
        if not isinstance(error, dict) or error.get("code") != CODES[kind]:  # pyright: ignore[reportUnknownMemberType]
            raise Failed(f"{self.method} was answered with {shorten(answer)} instead of {kind} ({CODES[kind]})")
        return cast("dict[str, Any]", error)

    def answered(self) -> bool:
        """Whether it has been answered."""
        return any(self._is_mine(message) for message in self.peer.inbox[self._start :])

    def frames(self, job: Call | None = None) -> list[dict[str, Any]]:
        """Return the frames that have come on its channel, up to its answer. (The watch reports any that come later.)

        :param job: for an attach, which is answered at once: the job's own call, whose answer ends the frames instead.
        """
        came, last = self.peer.inbox[self._start :], self if self.method != "jobs.attach" else job
        if last is not None:
            came = list(itertools.takewhile(lambda message: not answers(message, last.id), came))
        return [message["params"] for message in came if self._is_frame(message)]

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that have come on its channel."""
        return [frame["message"] for frame in self.frames() if isinstance(frame.get("message"), dict)]

    def until(self, phase: str, *, step: int = 0, image: int = 1, timeout: float | None = None) -> dict[str, Any]:
        """Return its first message of that phase, of image ``image`` or a later one, with at least ``step`` finished
        steps.
        """

        def there(message: Any) -> bool:
            if not self._is_frame(message) or not isinstance(message["params"].get("message"), dict):
                return self._is_mine(message)
            told = message["params"]["message"]
            return (
                told.get("phase") == phase
                and _reaches(told.get("step", -1), step)
                and _reaches(told.get("image"), image)
            )

        found = self.peer.wait(f"message of phase {phase}", there, start=self._start, timeout=timeout)
        if self._is_mine(found):
            raise Failed(f"{self.method} was answered before a message of phase {phase} came: {shorten(found)}")
        return found["params"]["message"]

    def cancel(self) -> None:
        """Ask the implementation to cancel it."""
        self.peer.notify("$/cancelRequest", {"id": self.id})

    def _is_mine(self, message: Any) -> bool:
        return answers(message, self.id)

    def _is_frame(self, message: Any) -> bool:
        params = (
            cast("dict[str, Any]", message).get("params") if isinstance(message, dict) and "method" in message else None
        )
        return isinstance(params, dict) and cast("dict[str, Any]", params).get("channel") == self.channel


def _reaches(told: Any, least: int) -> bool:
    """Whether a reported value is a number and at least ``least``."""
    return isinstance(told, int | float) and told >= least
