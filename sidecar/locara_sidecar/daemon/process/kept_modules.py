"""In a bundle, keeps modules in memory that the daemon has not needed yet: an update may replace the folder.

Modules are imported when they are first needed: that makes the start faster and takes less memory. After an update they
would come from another version, which may lack them, or be for another Python. So a running daemon uses those that it
kept, as bytes of compiled code. Only extension modules, which the system loads from a file, are imported in advance.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import marshal
import os
import sys
import threading
from importlib.machinery import PathFinder, SourceFileLoader
from typing import TYPE_CHECKING

import anyio

from locara_sidecar.daemon.engine_host import program
from locara_sidecar.machine import bundle, own_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

log = logging.getLogger("locara.daemon")

_OURS = "locara_sidecar"
_PARTS = ("capability", "daemon", "ipc", "machine", "models", "weights")
_LIBRARIES = ("locara_protocol", "anyio", "msgspec", "psutil")
_NOT_KEPT = frozenset(  # large, or nothing that a daemon uses
    {
        *("__pycache__", "site-packages", "lib-dynload", "test", "idlelib", "tkinter", "turtledemo", "lib2to3"),
        *("ensurepip", "pydoc_data", "unittest", "distutils", "wsgiref", "xmlrpc", "dbm", "curses", "sqlite3", "venv"),
        *("msilib", "Tools", "tests", "xml", "multiprocessing"),
    }
)
_EXTENSIONS = (  # also those of libraries that ours use; modules that a system lacks, or has built in, cost nothing
    *("_asyncio", "_bisect", "_blake2", "_bz2", "_csv", "_ctypes", "_datetime", "_hashlib", "_heapq", "_json", "_lzma"),
    *("_opcode", "_pickle", "_posixshmem", "_posixsubprocess", "_queue", "_random", "_scproxy", "_sha2", "_sha512"),
    *("_socket", "_ssl", "_statistics", "_struct", "_uuid", "_zoneinfo", "array", "binascii", "fcntl", "grp", "math"),
    *("mmap", "psutil", "resource", "select", "termios", "unicodedata", "zlib"),
)
_AHEAD = ("difflib", "locara_sidecar.models.downloads.settings")
"""Imported before the event loop runs, which would otherwise read them when it meets a mistake or a token."""
_READERS = ("locara_protocol.generation.examples",)  # read a file when they are imported
_HEADER = 16  # bytes before the code in a compiled file
_UNCHECKED = b"\1\0\0\0"  # its flags, if it need not be compared with its source


def start() -> None:
    """Start, in a thread that nothing waits for. If there can be no thread, modules are read when they are needed."""
    try:
        threading.Thread(target=_keep_in_bundle, name="kept-modules", daemon=True).start()
    except RuntimeError:  # the system refuses another thread
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_patient)


def _keep_in_bundle() -> None:
    try:
        program.find()  # waits if an update is just replacing the folder
        if bundle.folder() is not None:
            kept = keep()
            log.debug("%d modules are kept", kept)
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_patient)  # from now on nothing may wait


def wait_until_kept() -> None:
    """Until the modules are kept, an import that falls between an update's two renames waits for the second. Without
    this, a daemon that had already answered would end because it could not import its event loop.
    """
    _patient.since = program.begin()
    sys.meta_path.append(_patient)


def run(main: Callable[[], Awaitable[None]], has_begun: Callable[[], bool]) -> None:
    """Import the event loop and run ``main`` in it; retry once if an update got in the way.

    :param has_begun: whether there is an event loop: what fails from then on is raised.
    """
    for name in _AHEAD:
        with contextlib.suppress(ImportError, OSError):  # an update took a file; reported when it is needed
            load(name)
    try:
        anyio.run(main)
    except (ImportError, OSError, LookupError) as error:  # the last is anyio's, for a module that cannot be imported
        if has_begun() or (isinstance(error, LookupError) and not own_files.is_of_ours(error)):
            raise
        load("anyio._backends._asyncio")  # anyio could not
        anyio.run(main)


def load(name: str) -> None:
    """Import a module; again if its file, or that of a module that it imports, was renamed during the import, and once
    an update has stopped putting files into the folder.

    :raises ImportError: or OSError, if the second attempt fails too.
    """
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        program.find()
        own_files.settle()
        importlib.invalidate_caches()
        importlib.import_module(name)


class _PatientFinder:
    """Finds modules that no other finder has found because the whole installation was gone for a moment."""

    since: program.Program | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`. Blocks, some seconds at most, if there is no folder."""
        if program.find(wait=False) == self.since:
            return None  # nothing was replaced: there is no such module
        program.find()
        importlib.invalidate_caches()  # they may have cached that there is no such folder
        return PathFinder.find_spec(name, path, target)


_patient = _PatientFinder()


def keep() -> int:
    """Read all modules that a running daemon may import, and import those that cannot be kept; return their number."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    for name, path in _modules():
        if name not in sys.modules:
            with contextlib.suppress(OSError):  # reported when it is first used
                finder.add(name, path)
    for name in (*_EXTENSIONS, *_READERS):
        with contextlib.suppress(ImportError, OSError):  # of another system or Python; or an update removed a file
            importlib.import_module(name)
    return len(finder.kept)


class _Finder:
    """Finds the modules that were kept, before any other finder looks on the disk."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, bytes, bool]] = {}
        """By a module's name: the source's path, the source or its compiled code, and whether it is compiled."""

    def add(self, name: str, path: str) -> None:
        """Read one module.

        :raises OSError: if it cannot be read.
        """
        self.kept[name] = path, *_read(path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        del path, target
        if (found := self.kept.get(name)) is None:
            return None
        return importlib.util.spec_from_file_location(name, found[0], loader=_Loader(name, *found))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, data: bytes, compiled: bool) -> None:
        super().__init__(name, path)
        self._data = data
        self._compiled = compiled

    def get_code(self, fullname: str) -> CodeType:
        """Return the kept code."""
        del fullname
        code: CodeType = marshal.loads(self._data) if self._compiled else self.source_to_code(self._data, self.path)
        return code


def _read(path: str) -> tuple[bytes, bool]:
    """Return a module's code or source, and whether it is compiled. A bundle's modules are, for its own Python."""
    with contextlib.suppress(OSError), open(importlib.util.cache_from_source(path), "rb") as file:
        data = file.read()
        if data.startswith(importlib.util.MAGIC_NUMBER + _UNCHECKED):
            return data[_HEADER:], True
    with open(path, "rb") as file:
        return file.read(), False


def _modules() -> Iterator[tuple[str, str]]:
    """Yield names and paths of sources, starting with those most likely to be needed and to have changed."""
    ours = _home(_OURS)
    for part in _PARTS:
        yield from _below(f"{_OURS}.{part}", os.path.join(ours, part))
    for name in _LIBRARIES:
        yield from _below(name, _home(name))
    yield from _below("", os.path.dirname(os.__file__))


def _home(package: str) -> str:
    found = importlib.util.find_spec(package)
    return os.path.dirname(found.origin) if found is not None and found.origin is not None else ""


def _below(package: str, folder: str) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, dot, ending = entry.name.partition(".")
            whole = f"{package}.{name}" if package else name
            if (dot, ending) == (".", "py"):
                yield (package if name == "__init__" else whole), entry.path
            elif not dot and entry.name not in _NOT_KEPT and entry.is_dir():
                yield from _below(whole, entry.path)
