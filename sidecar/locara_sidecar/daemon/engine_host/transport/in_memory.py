"""An engine in this process: no child process and no pipe, but every message is encoded as if there were."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any

from locara_sidecar.ipc import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.ipc import frames

    Engine = Callable[["InMemoryConnection", frames.Command | None], None]
    """Called on the loop with each command, in order, and with None when there are no more. One that raises has ended,
    with status 1.
    """


class InMemory:
    """A :class:`~locara_sidecar.daemon.engine_host.transport.interface.Transport` whose engines are functions.

    :param engine: creates the function behind a new connection; may raise OSError.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._make = engine

    def start(
        self,
        opening: Callable[[str], frames.Start],
        *,
        on_events: Callable[[InMemoryConnection, list[frames.Event | framing.FrameError]], None],
        on_gone: Callable[[InMemoryConnection], None],
        on_failed: Callable[[InMemoryConnection, Exception], None],  # noqa: ARG002 -- it is raised
        on_lines: Callable[[list[str]], None],
    ) -> InMemoryConnection:
        """Start an engine like any transport, except that ``opening`` is called at once, with no folder, and that
        failures are raised. Callbacks run in a later turn of the event loop.
        """
        engine, start = self._make(), opening("")
        connection = InMemoryConnection(engine, on_events=on_events, on_gone=on_gone, on_lines=on_lines)
        connection.send(start)
        return connection


class InMemoryConnection:
    """Both ends of a :class:`~locara_sidecar.daemon.engine_host.transport.interface.Connection`."""

    pid: int | None = None

    def __init__(
        self,
        engine: Engine,
        *,
        on_events: Callable[[InMemoryConnection, list[frames.Event | framing.FrameError]], None],
        on_gone: Callable[[InMemoryConnection], None],
        on_lines: Callable[[list[str]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # anyio needs it to find the loop, also without sniffio
        self._engine = engine
        self._on_events = on_events
        self._on_gone = on_gone
        self._on_lines = on_lines
        self._lock = threading.Lock()
        self._exit: dict[str, Any] | None = None

    # --- the daemon's end -------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the engine has not ended."""
        return self._exit is None

    def send(self, command: frames.Command) -> None:
        """Pass on a command; an edit's files go first, in pieces, as through a pipe."""
        for piece in framing.in_pieces(command):
            for body in framing.FrameReader().feed(framing.encode(piece)):
                self._post(self._take, framing.decode_command(body))

    def close_input(self) -> None:
        """Signal that there are no more commands."""
        self._post(self._take, None)

    def kill(self) -> None:
        """End the engine at once; from any thread."""
        self.end(signal="SIGKILL")

    def exit_data(self) -> dict[str, Any]:
        """Return how the engine ended; ``{"status": None}`` while it has not."""
        return {"status": None} if self._exit is None else dict(self._exit)

    def discard_scratch(self) -> None:
        """Do nothing: there is no scratch folder."""

    # --- the engine's end -------------------------------------------------------------------

    def say(self, *events: frames.Event | framing.FrameError) -> None:
        """Send something to the daemon; from any thread, no effect once the engine has ended.

        A FrameError stands for bytes that are not a message.
        """
        if self.alive:
            self._post(self._on_events, self, [_through(event) for event in events])

    def print(self, *lines: str) -> None:
        """Print lines as a library would; from any thread."""
        self._post(self._on_lines, list(lines))

    def end(self, status: int = 0, signal: str | None = None) -> None:
        """End the engine; what it sent before is delivered first. From any thread; further calls have no effect."""
        with self._lock:
            if self._exit is not None:
                return
            self._exit = {"status": status} if signal is None else {"signal": signal}
        self._post(self._on_gone, self)

    def _take(self, command: frames.Command | None) -> None:
        if not self.alive:
            return
        try:
            self._engine(self, command)
        except BaseException:
            self.end(status=1)
            raise

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call, *args, context=self._context)


def _through(event: frames.Event | framing.FrameError) -> frames.Event | framing.FrameError:
    if isinstance(event, framing.FrameError):
        return event
    [body] = framing.FrameReader().feed(framing.encode(event))
    try:
        return framing.decode_event(body)
    except framing.FrameError as error:
        return error
