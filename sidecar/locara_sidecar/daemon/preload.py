"""Imports in a bundle what the daemon has not needed yet, because an update may replace the folder while it runs.

Elsewhere modules are imported when they are first needed: that starts quicker and takes less memory. But after an
update they would come from another version, which may have none of that name.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from locara_sidecar.machine import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("locara.daemon")

_OURS = "locara_sidecar"
_PACKAGES = ("capability", "daemon", "ipc", "machine", "models", "weights")
_OTHERS = (  # that ours, or libraries that ours use, import inside functions: the new version may have another Python
    "anyio._core._subprocesses",
    "base64",
    "ctypes",
    "difflib",
    "fcntl",
    "hashlib",
    "locara_protocol.generation.openrpc",
    "mmap",
    "platform",
    "psutil",
    "pwd",
    "resource",
    "shutil",
    "socket",
)
_LEFT_OUT = frozenset({"models.downloads", "models.checks.engine_check"})  # large; for processes of their own
_AFTER = 1.0  # seconds; the session's first calls come before this
_PAUSE = 0.002  # seconds between two modules, in which calls are answered


def start() -> None:
    """Begin, in a thread that nothing waits for. Without one, modules are imported when they are needed."""
    with contextlib.suppress(RuntimeError):  # the system refuses another thread
        threading.Thread(target=_import_in_bundle, name="preload", daemon=True).start()


def names() -> Iterator[str]:
    """Yield the modules that a running daemon may import; each is found after the one before has been imported."""
    for package in _PACKAGES:
        yield from _below(f"{_OURS}.{package}")
    yield from _OTHERS


def _import_in_bundle() -> None:
    time.sleep(_AFTER)
    if bundle.folder() is None:
        return
    for name in names():
        with contextlib.suppress(Exception):  # of another system, or lacking something: its first use tells
            importlib.import_module(name)
        time.sleep(_PAUSE)
    log.debug("all modules are imported")


def _below(name: str) -> Iterator[str]:
    import pkgutil  # slow to import

    if name.removeprefix(f"{_OURS}.") in _LEFT_OUT:
        return
    yield name
    with contextlib.suppress(ImportError, AttributeError):
        for found in pkgutil.iter_modules(importlib.import_module(name).__path__):
            yield from _below(f"{name}.{found.name}")
