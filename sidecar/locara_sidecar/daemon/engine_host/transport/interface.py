"""How an engine is reached: what :class:`~locara_sidecar.daemon.engine_host.client.EngineClient` needs of it, and no
more. There are two: a child process (``process.py``) and this process's memory (``in_memory.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.ipc import frames, framing


class Connection(Protocol):
    """One engine, from its start to its end; there is never a second behind the same connection."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine, once there is one."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it is there or still being started, as far as can be told now; quick."""
        ...

    def send(self, command: frames.Command) -> None:
        """Queue a command; never blocks, and is void when the engine is gone."""
        ...

    def close_input(self) -> None:
        """There are no more commands: the engine ends when it has taken those that are queued."""
        ...

    def kill(self) -> None:
        """End the engine by force; ``on_gone`` follows. From any thread, and as often as one likes."""
        ...

    def exit_data(self) -> dict[str, Any]:
        """How it ended, as an error's data tells it: ``{"signal": "SIGSEGV"}`` or ``{"status": 1}``."""
        ...

    def discard_scratch(self) -> None:
        """Remove the scratch folder now; otherwise that is done when the engine has ended."""
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
        """Start an engine. Called on the event loop, and waits for nothing: a disk and the system take their time.

        :param opening: makes the first command, of the folder where the engine runs, that it may write to and that goes
            with it. Called once, in any thread; it may read files.
        :param on_events: to be called on the loop with what the engine says, in order; a FrameError is the last ever.
        :param on_gone: to be called on the loop once, after the engine has ended and its last events were handed over.
        :param on_failed: to be called on the loop, in place of ``on_gone``, with what kept the engine from starting.
        :param on_lines: to be called on the loop with lines that were printed in the engine, bounded in length and
            rate.
        :raises OSError: when it is known at once that it cannot be started.
        """
        ...
