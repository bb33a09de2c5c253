"""``locara-sidecar serve``: checks what the host fixed at spawn, claims stdio, runs the daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Serve; returns only for a usage error (status 2, one sentence on stderr, nothing on stdout)."""
    parent = os.getppid()  # first of all: a host that dies from here on is missed, whenever the watch begins
    from locara_sidecar.daemon import stdio

    descriptors = stdio.claim()
    # what follows may import anything: from here on nothing can reach the host's stdout by accident
    from locara_protocol.errors import RpcError
    from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.serve import Settings, serve
    from locara_sidecar.models import catalogue

    try:
        policy = None
        if options.manifest is not None or options.grant:
            policy = Policy.build(_manifest(options.manifest), dict(options.grant) or None)
        known = catalogue.load(options.catalogue)
    except (RpcError, catalogue.CatalogueError, OSError, ValueError) as error:
        message = f"locara-sidecar: {getattr(error, 'message', None) or error}"
        if isinstance(error, RpcError) and "path" in error.data:
            message += f" ({error.data['path']})"
        os.write(2, (message + "\n").encode())
        return 2
    serve(
        Settings(
            policy=policy,
            engine=options.engine,
            cache_dir=options.cache_dir,
            idle_unload=options.idle_unload,
            stall_timeout=options.stall_timeout,
            queue=options.queue,
            max_line_bytes=options.max_line_bytes,
            log_level=options.log_level,
            compile=options.compile,
            flags=frozenset(flag for flag in (DOWNLOADS, MANAGEMENT) if getattr(options, flag[2:].replace("-", "_"))),
        ),
        known,
        descriptors,
        parent,
    )


def _manifest(path: Any) -> dict[str, Any] | None:
    if path is None:
        return None
    import json

    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return cast("dict[str, Any]", value)
