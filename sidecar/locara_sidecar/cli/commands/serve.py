"""``locara-sidecar serve``: checks what the host fixed at spawn, claims stdio, runs the daemon."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.daemon.wire import stdio
from locara_sidecar.machine import own_files

if TYPE_CHECKING:
    import argparse

    from locara_sidecar.capability.descriptors import DescriptorSocket
    from locara_sidecar.daemon.settings import Settings
    from locara_sidecar.models.catalogue import Catalogue

_NO_MEMORY = "it needs more memory; raise `ulimit -v` or `ulimit -d` if one is set"


def run(options: argparse.Namespace, parent: int | None = None) -> int:
    """Serve; returns only on failure: one sentence on stderr, nothing on stdout, and status 2 for a usage error, 1
    if the system refuses what is needed (memory, threads, descriptors).

    :param parent: the process that spawned this one; None for the current parent.
    """
    try:
        return _run(options, os.getppid() if parent is None else parent)
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        return _complain(f"locara-sidecar: cannot start: {_reason(error)}", 1)


def _run(options: argparse.Namespace, parent: int) -> int:
    descriptors = stdio.claim()
    own_files.descriptors_moved()
    try:
        prepared = _prepare(options, descriptors)
        from locara_sidecar.daemon.serve import serve

        own_files.require_unmoved()
    except Exception as error:
        own_files.start_anew(error, *descriptors, options.descriptors)
        raise
    if isinstance(prepared, int):
        return prepared
    serve(*prepared, descriptors, parent)


def _prepare(options: argparse.Namespace, descriptors: tuple[int, int]) -> tuple[Settings, Catalogue] | int:
    """Return what the command line fixed and the catalogue; or an exit status, having said what is wrong."""
    # the following imports may run any code: from here on nothing can reach the host's stdout by accident
    from locara_protocol.errors import RpcError
    from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon import system
    from locara_sidecar.daemon.settings import Settings
    from locara_sidecar.machine.engine_choice import choose_engine
    from locara_sidecar.models import catalogue

    try:
        policy = None
        if options.manifest is not None or options.grant:
            policy = Policy.build(_manifest(options.manifest), dict(options.grant) or None)
        known = catalogue.load(options.catalogue)
        root = system.cache_root(options.cache_dir)
        passed = None if options.descriptors is None else _socket(options.descriptors)
    except (RpcError, catalogue.CatalogueError, OSError, ValueError) as error:
        own_files.start_anew(error, *descriptors)
        message = f"locara-sidecar: {error.message if isinstance(error, RpcError) else _reason(error)}"
        if isinstance(error, RpcError) and "path" in error.data:
            message += f" ({error.data['path']})"
        return _complain(message, 2)
    settings = Settings(
        policy=policy,
        engine=choose_engine(options.engine),
        cache_root=root,
        idle_unload=options.idle_unload,
        stall_timeout=options.stall_timeout,
        queue=options.queue,
        max_line_bytes=options.max_line_bytes,
        log_level=options.log_level,
        compile=options.compile,
        prefer_float16=options.prefer_float16,
        descriptors=passed,
        flags=frozenset(flag for flag in (DOWNLOADS, MANAGEMENT) if getattr(options, flag[2:].replace("-", "_"))),
    )
    return settings, known


def _socket(fd: int) -> DescriptorSocket:
    from locara_sidecar.capability.descriptors import DescriptorSocket

    return DescriptorSocket(fd)


def _complain(message: str, status: int) -> int:
    """Print one sentence on stderr, as far as the host accepts it; return the exit status."""
    with contextlib.suppress(OSError):
        stdio.write_all(2, (message + "\n").encode(errors="backslashreplace"), 1.0)
    return status


def _manifest(path: Any) -> dict[str, Any] | None:
    if path is None:
        return None
    import json

    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise ValueError(f"The manifest {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"The manifest {path} is not in UTF-8 (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        why = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(f"The manifest {path} is not JSON ({why}).") from error
    except RecursionError:
        raise ValueError(f"The manifest {path} is nested too deeply.") from None
    if not isinstance(value, dict):
        raise ValueError(f"The manifest {path} does not hold a JSON object.")
    return cast("dict[str, Any]", value)


def _reason(error: Exception) -> str:
    """Return the system's message, with the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or _NO_MEMORY
