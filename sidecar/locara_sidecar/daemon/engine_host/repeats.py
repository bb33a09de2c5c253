"""Work that is repeated after an update: what its first run has reported is not reported again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.daemon.engine_host.request import JobEvent

_ORDER = {"loading": 0, "encoding": 1, "denoising": 2, "decoding": 3}
_FINISHED = 4

_Report = TypeVar("_Report")


class OnlyNew(Generic[_Report]):
    """Passes on reports of progress; during a repeat, only those that go beyond the earlier runs.

    :param pass_on: called with each new report.
    :param point: returns how far the work has come, as a tuple that grows.
    :param start: only what lies beyond this point is passed on at all.
    """

    def __init__(
        self, pass_on: Callable[[_Report], None], point: Callable[[_Report], tuple[Any, ...]], start: tuple[Any, ...]
    ) -> None:
        self._pass_on = pass_on
        self._point = point
        self._reached = self._known = start

    def report(self, report: _Report) -> None:
        """Pass a report on, unless an earlier run has made it."""
        if (point := self._point(report)) > self._known:
            self._reached = max(self._reached, point)
            self._pass_on(report)

    def repeat(self) -> None:
        """The work begins again."""
        self._known = self._reached


def point(event: JobEvent) -> tuple[int, int, float]:
    """Return how far a job is: image, phase, and how much of the phase.

    The same seed makes the same steps and images, so a second run continues the first.
    """
    match event:
        case frames.PhaseStarted():
            return event.image, _ORDER[event.phase], event.fraction
        case frames.Step():
            return event.image, _ORDER["denoising"], event.step
        case frames.Image():
            return event.image, _FINISHED, 0.0
