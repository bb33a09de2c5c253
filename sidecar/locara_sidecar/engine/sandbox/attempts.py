"""The engine tries what is forbidden: what counts is what the sandbox blocks, not what was requested.

None of the attempts sends anything. Connecting a datagram socket only asks the kernel for a route; the stream socket
connects to a port of this machine that nothing serves, local ones to a path that does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox import forbidden

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from locara_sidecar.engine.sandbox.forbidden import Outcome

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH})
# the last two mean a system without that address family
_NO_NETWORK = _REFUSED | _NO_ROUTE | {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_CLOSED_PORT = 1  # tcpmux: nothing serves it, and if something did it would only get a connection
_NOBODY = "/nonexistent/locara"
_NOWHERE = "192.0.2.1"  # from the address block reserved for documentation


def all_attempts(outside: Iterable[str], writable: str) -> dict[str, Outcome]:
    """Try everything once.

    :param outside: folders that the user can list and the engine must not.
    :param writable: a folder that the user can write in and the engine must not.
    """
    called = forbidden.all_calls()
    if called:  # on Linux, where /proc shows each process
        called["otherProcesses"] = worst([processes(), called["otherProcesses"]])
    return {
        **called,
        "readOutside": worst(read(folder) for folder in outside),
        "writeOutside": write(writable),
        "tcp": tcp(),
        "udp": udp(),
        "localSockets": local_sockets(),
        "signals": worst([signals(), called.get("signals", "unknown")]),
    }


def read(folder: str) -> Outcome:
    """Try to list a folder."""

    def attempt() -> None:
        with os.scandir(folder) as entries:
            next(entries, None)

    return _outcome(attempt, _REFUSED)


def write(folder: str) -> Outcome:
    """Try to create a file, and delete it if that worked."""
    path = os.path.join(folder, f".locara-attempt-{os.urandom(8).hex()}")

    def attempt() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        with contextlib.suppress(OSError):
            os.unlink(path)

    return _outcome(attempt, _REFUSED)


def processes() -> Outcome:
    """Try to read the parent process's command line."""

    def attempt() -> None:
        os.close(os.open(f"/proc/{os.getppid()}/cmdline", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))

    return _outcome(attempt, _REFUSED)


def tcp() -> Outcome:
    """Try to connect to a port of this machine. A refused connection means that the network is open."""
    import socket

    def attempt() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            stream.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                stream.connect(("127.0.0.1", _CLOSED_PORT))

    return _outcome(attempt, _NO_NETWORK)


def udp() -> Outcome:
    """Try to get a route for datagrams, to this machine and beyond, with both address families."""
    import socket

    def attempt(family: int, address: str) -> Callable[[], None]:
        def connect() -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
                datagrams.connect((address, 53))

        return connect

    where = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, _NOWHERE)]
    return worst(_outcome(attempt(family, address), _NO_NETWORK) for family, address in where)


def local_sockets() -> Outcome:
    """Try to reach a local service, by a stream and by a datagram, at a path that does not exist.

    The error that nothing exists there shows that the attempt was not blocked.
    """
    import socket

    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        return "unknown"

    def stream() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.connect(_NOBODY)

    def datagram() -> None:
        one, two = socket.socketpair(family, socket.SOCK_DGRAM)
        with one, two:
            one.sendto(b"", _NOBODY)

    return worst(_outcome(attempt, _REFUSED, frozenset({errno.ENOENT})) for attempt in (stream, datagram))


def signals() -> Outcome:
    """Try whether the parent process can be signalled."""
    parent = os.getppid()
    if parent <= 1:
        return "unknown"
    return _outcome(lambda: os.kill(parent, 0), _REFUSED)


def _outcome(
    attempt: Callable[[], object], refused: frozenset[int], let_through: frozenset[int] = frozenset()
) -> Outcome:
    try:
        attempt()
    except OSError as error:
        return "blocked" if error.errno in refused else "open" if error.errno in let_through else "unknown"
    return "open"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return "open" if any outcome is, else "blocked" if any is, else "unknown"."""
    found = set(outcomes)
    return "open" if "open" in found else "blocked" if "blocked" in found else "unknown"


@contextlib.contextmanager
def telling(told: dict[str, str], name: str) -> Generator[None]:
    """Record why a mechanism is not available, and continue with the others."""
    try:
        yield
    except OSError as error:
        told[name] = f"not available ({errno.errorcode.get(error.errno or 0, str(error))})"
