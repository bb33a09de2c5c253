"""The log of a daemon started by a command: kept off the terminal, and mentioned if it contains anything."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_OURS = "locara-sidecar: "
_TOLD = frozenset({"InternalError", "EngineCrashed", "EngineStalled"})


class DaemonLog:
    """A file for a daemon's stderr; deleted at the end unless :meth:`words` has mentioned it."""

    def __init__(self) -> None:
        self.fd, name = tempfile.mkstemp(prefix="locara-log-", suffix=".txt")
        self.path = Path(name)
        self._kept = False

    def __enter__(self) -> DaemonLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        os.close(self.fd)
        if not self._kept:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def words(self, kind: str | None) -> str | None:
        """Return what to add to an error: the daemon's own last sentence, if it ended with one, else where its log is;
        None if the error says everything.

        :param kind: the error's; None if the daemon has ended.
        """
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        if kind is None and (own := [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]):
            return own[-1]
        if lines and (kind is None or kind in _TOLD):
            self._kept = True
            return f"Its log is in {self.path}"
        return None
