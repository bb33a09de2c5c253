"""What is reported when an update has taken away what works on models."""

from __future__ import annotations

import errno

from locara_protocol.errors import RpcError


def not_ours(what: str) -> RpcError:
    """An update has replaced or removed the sidecar's own files, from which a process was to be started.

    :param what: what is wrong with this process, as a clause.
    """
    text = "The sidecar's own files were replaced or removed, so the process that works on models cannot be used"
    text += f" ({what}). Restart the sidecar."
    return RpcError("StorageError", text, errno=errno.errorcode[errno.ENOENT], reason="updated")
