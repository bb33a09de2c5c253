"""Open files passed by the host: over a socket given at spawn, with one descriptor in each datagram.

A host in macOS's App Sandbox may open what its user picked, but its child may not open the same path: the descriptor
itself has to be passed. Nothing waits here: the host sends a descriptor before the line that names it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.host_messages import MAX_PASSED_NAME
from locara_sidecar.capability.files.held import storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "$.descriptor"
MAX_WAITING = 64
"""Descriptors that were sent but not yet named by a call; one more closes the oldest."""


class DescriptorSocket:
    """The sidecar's end of the socket. Used on the event loop's thread only.

    :param fd: its number, as the host gave it at spawn. From here on no child inherits it.
    :raises ValueError: if it is not such a socket, in words for whoever spawned us.
    """

    _socket: socket.socket
    _waiting: dict[str, int | None]

    def __init__(self, fd: int) -> None:
        if sys.platform == "win32":
            raise ValueError("--descriptors cannot be used on Windows, where files are picked by path.")
        try:
            self._socket = socket.socket(fileno=fd)
        except OSError as error:
            raise ValueError(f"--descriptors {fd} is not an open socket: {error.strerror}.") from error
        kind = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        if self._socket.family != socket.AF_UNIX or kind != socket.SOCK_DGRAM:
            self._socket.detach()
            raise ValueError(f"--descriptors {fd} is not one end of a Unix datagram socket pair.")
        self._socket.set_inheritable(False)
        self._socket.setblocking(False)
        self._waiting = {}  # None: the system refused another descriptor

    def take(self, name: str) -> int:
        """Return the descriptor sent with that name; the caller then has to close it.

        :raises RpcError: InvalidParams if none was sent; StorageError with EMFILE if too many files are open.
        """
        while name not in self._waiting and self._receive():
            pass
        if name not in self._waiting:
            message = "No descriptor with this name was sent; send it before the call, once for each call."
            raise invalid_params(PATH, message)
        fd = self._waiting.pop(name)
        if fd is None:
            raise storage_error("Too many files are open; release some.", errno.EMFILE, path=PATH)
        return fd

    def close(self) -> None:
        """Close the socket, and all descriptors that no call has named."""
        for name in list(self._waiting):
            self._forget(name)
        self._socket.close()

    def _receive(self) -> bool:
        """Receive one datagram; return whether there was one."""
        if sys.platform == "win32":
            return False
        room = socket.CMSG_SPACE(2 * array.array("i").itemsize)
        try:
            text, ancillary, flags, _ = self._socket.recvmsg(MAX_PASSED_NAME + 1, room)
        except OSError:  # there is none, or the host has closed its end
            return False
        fds = [fd for level, kind, data in ancillary for fd in _descriptors(level, kind, data)]
        for fd in fds:
            os.set_inheritable(fd, False)
        cut = bool(flags & socket.MSG_CTRUNC)
        name = text.decode("ascii", "replace")
        if len(text) > MAX_PASSED_NAME or (len(fds) != 1 and not (cut and not fds)):
            _close(fds)
            return True
        self._forget(name)
        self._waiting[name] = fds[0] if fds else None
        while len(self._waiting) > MAX_WAITING:
            self._forget(next(iter(self._waiting)))
        return True

    def _forget(self, name: str) -> None:
        fd = self._waiting.pop(name, None)
        if fd is not None:
            _close([fd])


def no_socket() -> RpcError:
    """Return the error for a host that gave no socket at spawn."""
    return invalid_params(PATH, "Descriptors cannot be received: the sidecar was started without --descriptors.")


def _descriptors(level: int, kind: int, data: bytes) -> Iterable[int]:
    if sys.platform == "win32" or level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
        return []
    found = array.array("i")
    found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
