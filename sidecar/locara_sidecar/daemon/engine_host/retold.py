"""What a job has told, so that another engine that does it again tells only what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.daemon.engine_host.request import JobEvent

_ORDER = {"loading": 0, "encoding": 1, "denoising": 2, "decoding": 3}
_FINISHED = 4
_Point = tuple[int, int, float]


class Told:
    """Passes on a job's events. The same seed makes the same steps and pictures, so a second run continues the first.

    :param on_event: called with the events of the first run, and with those of a later one that lie beyond.
    """

    def __init__(self, on_event: Callable[[JobEvent], None]) -> None:
        self._on_event = on_event
        self._reached: _Point = (0, 0, 0.0)
        self._known: _Point = (0, 0, 0.0)  # by an earlier run

    def tell(self, event: JobEvent) -> None:
        """Pass an event on, unless an earlier run has told it."""
        if (point := _point(event)) > self._known:
            self._reached = max(self._reached, point)
            self._on_event(event)

    def again(self) -> None:
        """The job begins anew."""
        self._known = self._reached


def _point(event: JobEvent) -> _Point:
    """Return how far a job is: picture, phase, and how much of the phase."""
    match event:
        case frames.PhaseStarted():
            return event.image, _ORDER[event.phase], event.fraction
        case frames.Step():
            return event.image, _ORDER["denoising"], event.step
        case frames.Image():
            return event.image, _FINISHED, 0.0
