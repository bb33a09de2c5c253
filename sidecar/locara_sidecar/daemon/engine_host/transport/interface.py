"""The interface between :class:`~locara_sidecar.daemon.engine_host.client.EngineClient` and an engine.

There are two implementations: a child process (``process.py``) and this process's memory (``in_memory.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.ipc import frames, framing


class Connection(Protocol):
    """One engine, from its start to its end; a connection is never reused for a second one."""

    @property
    def pid(self) -> int | None:
        """Its process id on this machine, once there is one."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it exists or is being started, as far as is known now; quick."""
        ...

    def send(self, command: frames.Command) -> None:
        """Queue a command; never blocks, and has no effect when the engine is gone."""
        ...

    def close_input(self) -> None:
        """Signal that there are no more commands: the engine ends after the queued ones."""
        ...

    def kill(self) -> None:
        """End the engine by force; ``on_gone`` follows. From any thread, any number of times."""
        ...

    def exit_data(self) -> dict[str, Any]:
        """Return how it ended, as in an error's data: ``{"signal": "SIGSEGV"}`` or ``{"status": 1}``."""
        ...

    def discard_scratch(self) -> None:
        """Remove the scratch folder now; otherwise it is removed when the engine has ended."""
        ...


class Transport(Protocol):
    """A place where engines can be started."""

    def start(
        self,
        opening: Callable[[str], frames.Start],
        *,
        on_events: Callable[[Connection, list[frames.Event | framing.FrameError]], None],
        on_gone: Callable[[Connection], None],
        on_failed: Callable[[Connection, Exception], None],
        on_lines: Callable[[list[str]], None],
    ) -> Connection:
        """Start an engine. Called on the event loop and does not block: disk and system take their time.

        :param opening: builds the first command. It gets the engine's scratch folder: its working directory, where it
            may write, and which is removed with it. Called once, in any thread; it may read files.
        :param on_events: called on the loop with what the engine sends, in order; a FrameError is the last event.
        :param on_gone: called on the loop once, after the engine has ended and its last events were delivered.
        :param on_failed: called on the loop, instead of ``on_gone``, with what kept the engine from starting.
        :param on_lines: called on the loop with lines printed in the engine, bounded in length and rate.
        :raises OSError: if it is known at once that it cannot be started.
        """
        ...
