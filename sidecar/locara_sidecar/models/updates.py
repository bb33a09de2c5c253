"""The error for a worker whose files an update has replaced or removed."""

from __future__ import annotations

import errno

from locara_protocol.errors import RpcError


def not_ours(what: str) -> RpcError:
    """Build the error for a worker that an update keeps from starting or from working.

    :param what: what is wrong with this worker, as a clause.
    """
    text = "The sidecar's own files were replaced or removed, so the process that works on models cannot be used"
    text += f" ({what}). Restart the sidecar."
    return RpcError("StorageError", text, errno=errno.errorcode[errno.ENOENT], reason="updated")
