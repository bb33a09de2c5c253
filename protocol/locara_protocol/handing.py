"""A host's end of the socket on which it hands open files to its sidecar (``--descriptors``); not on Windows."""

from __future__ import annotations

import array
import itertools
import socket
import sys


class HandingSocket:
    """The pair of sockets: one end stays here, the other goes to the sidecar as it is spawned.

    :raises OSError: where the system has no such sockets.
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
        """What the sidecar's command line needs."""
        return ["--descriptors", str(self._theirs.fileno())]

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the sidecar must inherit."""
        return (self._theirs.fileno(),)

    def fileno(self) -> int:
        """Our end's descriptor."""
        return self._ours.fileno()

    def spawned(self) -> None:
        """The sidecar has its end: close ours of it."""
        self._theirs.close()

    def send(self, descriptor: int) -> str:
        """Send an open file; it may be closed here once the call that names it was answered.

        :returns: what ``descriptor`` is in ``host.pickFile``.
        :raises OSError: where the sidecar is gone.
        """
        name = f"file-{next(self._numbers)}"
        if sys.platform != "win32":
            files = array.array("i", [descriptor])
            self._ours.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        return name

    def close(self) -> None:
        """Give both ends back."""
        self._ours.close()
        self._theirs.close()
