"""The host's end of the socket over which it passes open files to its sidecar (``--descriptors``); not on Windows."""

from __future__ import annotations

import array
import itertools
import socket
import sys


class HandingSocket:
    """A pair of sockets: one end stays here, the sidecar inherits the other.

    :raises OSError: if the system has no such sockets.
    """

    _ours: socket.socket
    _theirs: socket.socket
    _numbers: itertools.count[int]

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise OSError("open files cannot be handed over on Windows; pick them by path")
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._numbers = itertools.count(1)

    @property
    def flags(self) -> list[str]:
        """The arguments to add to the sidecar's command line."""
        return ["--descriptors", str(self._theirs.fileno())]

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the sidecar must inherit."""
        return (self._theirs.fileno(),)

    def fileno(self) -> int:
        """The descriptor of our end."""
        return self._ours.fileno()

    def spawned(self) -> None:
        """Close our copy of the sidecar's end, once the sidecar has been spawned."""
        self._theirs.close()

    def send(self, descriptor: int) -> str:
        """Send an open file; it may be closed here once the call that names it has been answered.

        :returns: the value for ``descriptor`` in ``host.pickFile``.
        :raises OSError: if the sidecar is gone; on macOS with ENOBUFS, too, if it has not yet read what was sent before
            (the system keeps 4 KiB, some forty of them).
        """
        name = f"file-{next(self._numbers)}"
        if sys.platform != "win32":
            files = array.array("i", [descriptor])
            self._ours.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        return name

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self._theirs.close()
