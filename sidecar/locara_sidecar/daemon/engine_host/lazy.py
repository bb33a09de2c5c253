"""Creates the engine client when the first job needs it, so that an idle daemon does not import it.

Importing the client (subprocess, tempfile) takes longer than everything else between spawning the daemon and its first
answer. It reads files, so it is done in a thread.
"""

from __future__ import annotations

import importlib
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from locara_protocol.errors import RpcError
from locara_protocol.messages import EngineStatus
from locara_sidecar.daemon.engine_host import failures, program
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.machine import own_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from locara_sidecar.daemon.engine_host.client import EngineClient, JobEvent
    from locara_sidecar.daemon.engine_host.program import Program
    from locara_sidecar.ipc import frames

    _Tell = Callable[[JobEvent], None]

_T = TypeVar("_T")
_TRIES = 3


class _Asked:
    """A job until it has ended: whether it was cancelled, wherever it is."""

    def __init__(self) -> None:
        self.cancelled = False
        self.waiting: anyio.CancelScope | None = None
        """Surrounds the wait for the client or the folder. Cancelling the scope alone is not enough, because that has
        no effect on a wait that is just over."""

    def cancel(self) -> None:
        self.cancelled = True
        if self.waiting is not None:
            self.waiting.cancel()


class LazyEngine:
    """The methods of :class:`~locara_sidecar.daemon.engine_host.client.EngineClient`; see there.

    :param make: creates the client; called once, on the event loop, after its modules have been imported.
    """

    def __init__(self, make: Callable[[], EngineClient]) -> None:
        self._make = make
        self._client: EngineClient | None = None
        self._asked: dict[str, _Asked] = {}  # by the job's id
        self._closed = False
        self._latest: Program | None = None

    @property
    def device(self) -> str | None:
        """The device that the running engine reported; None if no engine runs."""
        return None if self._client is None else self._client.device

    @property
    def note(self) -> str | None:
        """The running engine's remark on its device, if any."""
        return None if self._client is None else self._client.note

    @property
    def sandbox(self) -> frames.SandboxReport | None:
        """What the most recently started engine found out about its confinement; None before the first."""
        return None if self._client is None else self._client.sandbox

    def status(self) -> EngineStatus:
        """The engine's current state; ``stopped`` before the first job."""
        if self._client is None:
            return EngineStatus(state="stopped", pid=None, model=None, last_progress_ms=None)
        return self._client.status()

    async def run(self, spec: frames.JobSpec, on_event: Callable[[JobEvent], None]) -> frames.Done:
        """Run one job."""
        return await self._perform(spec.job, on_event, lambda client, tell: client.run(spec, tell))

    async def load(self, spec: frames.LoadSpec, on_event: Callable[[JobEvent], None]) -> frames.Loaded:
        """Load a model ahead of its first job."""
        return await self._perform(spec.job, on_event, lambda client, tell: client.load(spec, tell))

    async def prepare(self, spec: frames.PrepareSpec, on_event: Callable[[JobEvent], None]) -> frames.Prepared:
        """Quantize a model and write it, in a process that has ended afterwards."""
        return await self._perform(spec.job, on_event, lambda client, tell: client.prepare(spec, tell))

    async def _perform(
        self, job: str, on_event: Callable[[JobEvent], None], perform: Callable[[EngineClient, _Tell], Awaitable[_T]]
    ) -> _T:
        """Run a job; run it again from the start if it failed in an engine whose program was replaced meanwhile.

        Such an engine has an old version and, if confined, cannot open any further files, so its failure says nothing.
        What it has reported is not reported again.
        """
        asked = self._asked[job] = _Asked()
        try:
            client = await self._made_for(asked)
            if asked.cancelled:
                raise failures.cancelled()
            from locara_sidecar.daemon.engine_host import repeats  # imported with the client, in a thread

            new = repeats.OnlyNew(on_event, repeats.point, (0, 0, 0.0))
            for left in reversed(range(_TRIES)):
                began = time.time()
                try:
                    return await perform(client, new.report)
                except RpcError as error:
                    if error.kind == "RequestCancelled":
                        raise
                    look = partial(own_files.are_replaced, began)
                    settle = look if asked.cancelled else partial(own_files.settled_since, began)
                    replaced = await self._wait(asked, settle, refused=lambda: False)
                    await self._made_for(asked, refused=lambda: self._latest)
                    replaced = replaced or client.outdated
                    if replaced and asked.cancelled:
                        raise failures.cancelled() from error
                    if not replaced or not left:
                        updated = program.was_replaced(self._latest)
                        updated = updated or await self._wait(asked, own_files.are_replaced, refused=lambda: False)
                        raise (failures.after_update(error) if updated else error) from None
                    client.replace(error)
                    new.repeat()
        finally:
            del self._asked[job]
        raise AssertionError("the last attempt returns or raises")

    async def _made_for(self, asked: _Asked, refused: Callable[[], Program | None] | None = None) -> EngineClient:
        """Return the client, after updating what engines are started from.

        :param refused: what they are started from, if the system refuses a thread to look.
        :raises RpcError: RequestCancelled, if the job is cancelled while waiting.
        """
        found = await self._wait(asked, partial(_look, wait=not asked.cancelled), refused=refused)
        if self._client is None:
            self._client = self._make()
            if self._closed:
                self._client.close_now()
        self._latest = found
        self._client.saw(found)
        return self._client

    @staticmethod
    async def _wait(asked: _Asked, function: Callable[[], _T], refused: Callable[[], _T] | None = None) -> _T:
        """Call a function in a thread; the job can be cancelled meanwhile.

        :param refused: see :func:`.off_loop`.
        :raises RpcError: RequestCancelled.
        """
        scope = asked.waiting = anyio.CancelScope()
        try:
            with scope:
                return await off_loop(function, abandon=True, refused=refused)
        finally:
            asked.waiting = None
        raise failures.cancelled()

    async def unload(self) -> bool:
        """End an engine without a job; return whether there was one."""
        return self._client is not None and await self._client.unload()

    def cancel(self, job: str) -> None:
        """Stop a job if it is running."""
        if (asked := self._asked.get(job)) is not None:
            asked.cancel()
        if self._client is not None:
            self._client.cancel(job)

    async def close(self) -> None:
        """End the engine for good."""
        self._closed = True
        if self._client is not None:
            await self._client.close()

    def close_now(self) -> None:
        """Kill the engine without waiting."""
        self._closed = True
        if self._client is not None:
            self._client.close_now()

    def kill(self) -> None:
        """Only kill the engine; from any thread."""
        if self._client is not None:
            self._client.kill()


def _import_client() -> None:
    for name in ("client", "repeats"):
        importlib.import_module(f"locara_sidecar.daemon.engine_host.{name}")


def _look(*, wait: bool) -> Program | None:
    """Import the client, and find out what engines are started from."""
    _import_client()
    return program.find(wait=wait)
