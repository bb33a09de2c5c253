"""What an engine that a stranger's model has taken over tries, act by act.

An act is a row: a function with ``@act(part, name)`` that does it, in the engine's own process, after its runtime was
imported. It returns when it got through and raises OSError when it was held; Skipped where this machine has no such
thing. To add one, write the function into the module of its part; ``make campaign-hostile-engine`` then runs it in
every engine's sandbox, as every user, and without a sandbox, to see what it is worth. Acts name only what the
:class:`World` made for them: it is theirs to break.
"""

from __future__ import annotations

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
    """A user's things, made for the acts.

    :ivar home: a folder with ``secret`` (0600) and ``long``; ``model``: a granted one with ``weights``.
    :ivar victim: a process of the same user, with a segment, a semaphore set and a queue (System V) of its own.
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


@dataclass
class Act:
    """One row."""

    part: str
    name: str
    do: Callable[[World], object]


class Skipped(Exception):
    """This machine has nothing to try it on."""


ACTS: list[Act] = []


def act(part: str, name: str) -> Callable[[Callable[[World], object]], Callable[[World], object]]:
    """Make a function an act."""

    def add(do: Callable[[World], object]) -> Callable[[World], object]:
        ACTS.append(Act(part, name, do))
        return do

    return add


def raw(name: str, *arguments: Any) -> int:
    """A system call by its number, past all libraries.

    :raises OSError: as it fails; Skipped where this machine has no such call.
    """
    number = call_numbers.ARCHITECTURES[os.uname().machine].number(name)
    if number is None:
        raise Skipped(f"no {name} on this machine")
    return numbered(number, *arguments)


def numbered(number: int, *arguments: Any) -> int:
    """The system call of this number."""
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
    """Make a call with arguments that are wrong: to be told what is wrong with them is to have been let through.

    :raises OSError: when it was refused, or is not there.
    """
    try:
        raw(name, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def all_acts() -> list[Act]:
    """Every act, of all parts."""
    # the order counts: the last ones would change the process for those after them
    for part in ("files", "processes", "reaching", "resources", "kernel", "privileges"):
        importlib.import_module(f"support.evil.{part}")
    return ACTS


def perform(world: World, parts: set[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Do the acts of ``parts`` (all, if empty), in their order; tell of each that it begins, and how it went."""
    for one in all_acts():
        if parts and one.part not in parts:
            continue
        row: dict[str, Any] = {"part": one.part, "name": one.name}
        tell(row)
        try:
            one.do(world)
            tell(row | {"outcome": "DONE"})
        except OSError as error:
            tell(row | {"outcome": errno.errorcode.get(error.errno or 0, type(error).__name__)})
        except Skipped as why:
            tell(row | {"outcome": f"skipped: {why}"})
