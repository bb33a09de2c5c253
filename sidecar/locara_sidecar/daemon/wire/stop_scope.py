"""Cancellation of a long call's work, usable from the moment that the call is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from types import TracebackType


class StopScope:
    """A cancel scope for one task, which enters it once.

    It can be created and cancelled before that task has begun, and before there is an event loop: lines that arrive
    together with ``initialize`` are looked at before the loop runs, when anyio's own scope cannot be created.
    """

    def __init__(self) -> None:
        self._cancelled = False
        self._scope: anyio.CancelScope | None = None

    def cancel(self) -> None:
        """Make the task end soon, or as soon as it begins."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def __enter__(self) -> None:
        self._scope = anyio.CancelScope()
        self._scope.__enter__()
        if self._cancelled:
            self._scope.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._scope is not None
        return bool(self._scope.__exit__(kind, error, trace))
