"""The environment of a check: spawns the implementation, opens sessions, and cleans up after the check."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_conformance.cases import shorten
from locara_conformance.outcomes import Failed
from locara_conformance.peer import Peer
from locara_conformance.validator import Schemas
from locara_protocol import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locara_conformance.call import Call
    from locara_conformance.outcomes import Event

_SHOWN = 10
"""How many violations of one kind keep their exchange; an implementation that never stops causes millions."""
MODEL = "pocket"
PROMPT = "a red circle on a blue background"


class Lab:
    """The processes and folders of consecutive checks.

    :param command: the implementation, as a host would spawn it.
    :param timeout: seconds to wait for an answer.
    """

    def __init__(self, command: Sequence[str], *, timeout: float = 10.0) -> None:
        self.command, self.timeout = list(command), timeout
        self.root = Path(tempfile.mkdtemp(prefix="locara-conformance-"))
        self.schemas = Schemas()
        self.peers: list[Peer] = []
        """The processes of the current check, including the shared one if it was used."""
        self.violations: dict[str, list[tuple[str, list[Event]]]] = {}
        """What the watch found, by the id of the check that it belongs to, with what had crossed the pipe before."""
        self._shared: dict[str, Peer] = {}
        self._marks: dict[Peer, int] = {}
        self._spawned = 0

    def spawn(
        self,
        *flags: str,
        env: dict[str, str] | None = None,
        nonblocking: bool = False,
        unread_stderr: bool = False,
        through: Sequence[str] = (),
        inherited: Sequence[int] = (),
    ) -> Peer:
        """Start a process without a session. ``flags`` are appended to the command, ``through`` is put before it,
        ``env`` is added to the environment.
        """
        self._spawned += 1
        peer = Peer(
            [*through, *self.command, *flags],
            number=len(self.peers) + 1,
            log=self.root / f"stderr-{self._spawned}.log",
            timeout=self.timeout,
            schemas=self.schemas,
            report=self._found,
            env=None if env is None else {**os.environ, **env},
            nonblocking=nonblocking,
            unread_stderr=unread_stderr,
            inherited=inherited,
        )
        self.peers.append(peer)
        return peer

    def session(self, *flags: str, opening: dict[str, Any] | None = None, **more: Any) -> Peer:
        """Start a process with a session that may draw with the model ``pocket`` and save in :meth:`folder`."""
        peer = self.spawn(*flags, **more)
        peer.call("initialize", self.opening(**(opening or {})), timeout=max(20.0, self.timeout))
        return peer

    def shared(self) -> Peer:
        """Return a session shared by checks that leave it as it was; a new one after a check that did not succeed."""
        return self.kept("session") or self.keep("session", self.session())

    def kept(self, key: str) -> Peer | None:
        """Return the process kept under that name, if there is one and it has not ended."""
        peer = self._shared.get(key)
        if peer is None or peer.closed:
            return None
        if peer not in self.peers:
            self.peers.append(peer)
            self._marks[peer] = len(peer.events)
        return peer

    def keep(self, key: str, peer: Peer) -> Peer:
        """Keep a process for later checks."""
        self._shared[key] = peer
        return peer

    def opening(self, **more: Any) -> dict[str, Any]:
        """Return params for ``initialize``; ``more`` are members that take precedence."""
        return {
            "protocolVersion": PROTOCOL_VERSION,
            "clientInfo": {"name": "locara-conformance", "version": "1"},
            "manifest": manifest(),
            "grants": {"user-folder": str(self.folder())},
        } | more

    def folder(self) -> Path:
        """Return the folder that is granted as ``user-folder``."""
        folder = self.root / "pictures"
        folder.mkdir(exist_ok=True)
        return folder

    def exchange(self) -> list[Event]:
        """Return what crossed the pipes of the current check."""
        return [event for peer in self.peers for event in peer.events[self._marks.get(peer, 0) :]]

    def stderr(self) -> str:
        """Return the end of what the check's processes wrote to stderr."""
        return "".join(peer.stderr()[-2000:].decode(errors="replace") for peer in self.peers)[-4000:]

    def reset(self, *, succeeded: bool) -> None:
        """End the processes of a check; the shared ones only if it did not succeed."""
        shared = {} if not succeeded else self._shared
        _end([peer for peer in self.peers if peer not in shared.values()])
        self._shared = {key: one for key, one in self._shared.items() if succeeded or one not in self.peers}
        self.peers, self._marks = [], {}
        shutil.rmtree(self.root / "pictures", ignore_errors=True)
        if self._shared:
            self.folder()

    def close(self) -> None:
        """End all processes and remove what they left."""
        _end([*self.peers, *self._shared.values()])
        shutil.rmtree(self.root, ignore_errors=True)

    def _found(self, id: str, sentence: str, peer: Peer) -> None:
        found = self.violations.setdefault(id, [])
        found.append((sentence, peer.events[-12:] if len(found) < _SHOWN else []))


def _end(peers: Sequence[Peer]) -> None:
    """End all in parallel, because each takes a while."""
    for peer in peers:
        peer.resume()
        peer.close_stdin()
    for peer in peers:
        peer.end()


def manifest(*models: str, **capabilities: Any) -> dict[str, Any]:
    """Return a manifest that declares text to image with ``models`` (``pocket``) and a folder to write to."""
    return {
        "schema": "locara/v1",
        "name": "conformance",
        "publisher": "locara",
        "version": "1.0.0",
        "modalities": ["text-to-image", "image-to-image"],
        "capabilities": {"models": list(models or (MODEL,)), "fs": {"user-folder": "read-write"}, "net": False}
        | capabilities,
    }


def drawing(prompt: str = PROMPT, **options: Any) -> dict[str, Any]:
    """Return params for ``image.generate``: two steps, the picture in the answer and no file."""
    return {
        "prompt": prompt,
        "options": {"model": MODEL, "steps": 2, "seed": 1, "output": {"mode": "inline"}} | options,
    }


_KINDS = {str: "a string", int: "an integer", list: "an array", dict: "an object"}


def busy(peer: Peer, **options: Any) -> Call:
    """Return a very slow call in the middle of its steps."""
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake", **options), stream=True)
    call.until("denoising", timeout=20)
    return call


def at(value: Any, path: str, kind: type | None = None) -> Any:
    """Return the member of a message at a path such as ``images.0.sha256``.

    :raises Failed: if it does not exist, or is not of type ``kind``, which the check needs to continue.
    """
    place = value
    for step in path.split("."):
        try:
            place = place[int(step) if isinstance(place, list) else step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise Failed(f"{path} is missing from an answer") from None
    if kind is not None and (not isinstance(place, kind) or isinstance(place, bool)):
        raise Failed(f"{path} of an answer is {shorten(place)}, not {_KINDS[kind]}")
    return place


def decoded(value: Any, path: str) -> bytes:
    """Decode the base64 at a path in a message.

    :raises Failed: if there is none.
    """
    try:
        return base64.b64decode(at(value, path, str), validate=True)
    except ValueError:
        raise Failed(f"{path} of an answer is not base64") from None


def content(file: Path) -> bytes:
    """Read a file that the implementation should have written.

    :raises Failed: if it cannot be read.
    """
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise Failed(f"the reported file {file.name!r} cannot be read: {error}") from None


def expect(holds: bool, sentence: str | Callable[[], str]) -> None:
    """Require a condition.

    :raises Failed: with the sentence, if it does not hold.
    """
    if not holds:
        raise Failed(sentence if isinstance(sentence, str) else sentence())
