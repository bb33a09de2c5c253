"""Tells a failure for want of memory, threads or descriptors from all others."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Collection

NO_THREAD = "start new thread"
"""CPython's message when the system refuses a thread; it has no exception type for that."""
_NO_FILE = (errno.EMFILE, errno.ENFILE)


def explained(error: Exception, kinds: Collection[str]) -> RpcError | None:
    """Return what to answer if the system refused memory, a thread, a process or a descriptor; else None.

    :param kinds: the errors that the method may have, besides those that every method may have.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_FILE and "StorageError" in kinds:
        name = errno.errorcode[number]
        return RpcError("StorageError", f"The sidecar cannot open any more files ({name}).", errno=name)
    if (
        isinstance(error, MemoryError)
        or number in (*_NO_FILE, errno.ENOMEM, errno.EAGAIN)
        or (isinstance(error, RuntimeError) and NO_THREAD in str(error))
    ):
        message = "The system has no more memory, threads or open files for the sidecar; other programs are using them."
        return RpcError("InsufficientMemory", message)
    return None
