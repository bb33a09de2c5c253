"""What an engine tries once a malicious model has taken it over, act by act.

An act is a function with ``@act(part, name)``. It runs in the engine's own process, after the engine's runtime was
imported. It returns if it succeeded, raises OSError if it was blocked, and raises Skipped if this machine has no such
thing. To add one, write the function in the module of its part. ``make campaign-hostile-engine`` then runs it in every
engine's sandbox, as every user, and once without a sandbox as a control. Acts touch only what :class:`World` created
for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from locara_sidecar.engine.sandbox.linux import call_numbers

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class World:
    """A user's things, created for the acts.

    :ivar home: a folder with ``secret`` (0600) and ``long``; ``model``: a granted one with ``weights``.
    :ivar victim: a process of the same user, with its own System V memory segment, semaphore set and message queue.
    :ivar ia32: whether this system runs 32-bit calls at all.
    """

    home: str
    scratch: str
    model: str
    victim: int
    segment: int
    semaphores: int
    queue: int
    tcp: int
    udp: int
    stream: str
    datagrams: str
    abstract: str
    ia32: bool

    def dumped(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def loaded(text: str) -> World:
        return World(**json.loads(text))

    def lay(self) -> None:
        """Restore the user's files: without a sandbox, earlier acts may have changed them."""
        for folder, name, content, mode in (
            (self.home, "secret", "secret", 0o600),
            (self.home, "long", "a user's file", 0o644),
            (self.model, "weights", "weights", 0o444),
        ):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                os.unlink(path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            os.write(fd, content.encode())
            os.close(fd)
        with contextlib.suppress(OSError):
            os.setxattr(os.path.join(self.home, "secret"), "user.kept", b"x")


@dataclass
class Act:
    """One act."""

    part: str
    name: str
    do: Callable[[World], object]


class Skipped(Exception):
    """This machine has nothing to try the act on."""


ACTS: list[Act] = []


def act(part: str, name: str) -> Callable[[Callable[[World], object]], Callable[[World], object]]:
    """Register a function as an act."""

    def add(do: Callable[[World], object]) -> Callable[[World], object]:
        ACTS.append(Act(part, name, do))
        return do

    return add


def raw(name: str, *arguments: Any) -> int:
    """Make a system call by number, without going through any library.

    :raises OSError: if it fails; Skipped if this machine has no such call.
    """
    number = call_numbers.ARCHITECTURES[os.uname().machine].number(name)
    if number is None:
        raise Skipped(f"no {name} on this machine")
    return numbered(number, *arguments)


def numbered(number: int, *arguments: Any) -> int:
    """Make the system call with this number."""
    given = [
        one if not isinstance(one, (int, bytes, type(None))) else
        ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one or 0)
        for one in arguments
    ]  # fmt: skip
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *given)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def reached(name: str, *arguments: Any) -> None:
    """Make a call with invalid arguments: an error about them proves that the call was allowed.

    :raises OSError: if it was refused or does not exist.
    """
    try:
        raw(name, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def all_acts() -> list[Act]:
    """Return every act, of all parts."""
    # the order matters: the last ones would change the process for the others
    for part in ("files", "processes", "reaching", "resources", "kernel", "privileges"):
        importlib.import_module(f"support.evil.{part}")
    return ACTS


def perform(world: World, parts: set[str], tell: Callable[[dict[str, Any]], None], *, lay: bool = False) -> None:
    """Perform the acts of ``parts`` (all, if empty) in order; report the start and the outcome of each.

    :param lay: put the user's files back before each.
    """
    for one in all_acts():
        if parts and one.part not in parts:
            continue
        row: dict[str, Any] = {"part": one.part, "name": one.name}
        tell(row)
        if lay:
            world.lay()
        try:
            one.do(world)
            tell(row | {"outcome": "DONE"})
        except OSError as error:
            tell(row | {"outcome": errno.errorcode.get(error.errno or 0, type(error).__name__)})
        except Skipped as why:
            tell(row | {"outcome": f"skipped: {why}"})
