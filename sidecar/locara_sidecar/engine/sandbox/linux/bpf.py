"""Assemble a system call filter: classic BPF, as ``seccomp`` takes it.

No library is used: libseccomp is not on every machine, and an engine without a filter would not be confined. A program
reads ``struct seccomp_data``: the call's number, the architecture, and the arguments, of which the lower 32 bits are
compared. (All compared arguments are ``int`` or ``unsigned int`` to the kernel, which drops the upper bits, or never
use them, like clone's flags.)

The kernel caches which calls a filter always allows, so those cost nothing; the others cost a few hundred nanoseconds.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple

from locara_sidecar.engine.sandbox.linux import call_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
"""``LD|W|ABS``, ``JMP|JEQ|K``, ``JMP|JGE|K``, ``ALU|AND|K``, ``RET|K``."""
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in bytes; an argument has eight, the lower four first
_WHOLE = 0xFFFFFFFF


class When(NamedTuple):
    """If an argument (from 0) is one of ``values`` in the bits of ``mask``."""

    argument: int
    values: tuple[int, ...]
    mask: int = _WHOLE


class Unless(NamedTuple):
    """If an argument (from 0) is none of ``values`` in the bits of ``mask``."""

    argument: int
    values: tuple[int, ...]
    mask: int = _WHOLE


class Denial(NamedTuple):
    """A system call that fails with ``error``, if its arguments match all of ``where``."""

    name: str
    error: int
    where: When | Unless | tuple[When | Unless, ...] = ()


class _Instruction(NamedTuple):
    code: int
    value: int
    if_true: int = 0  # instructions to skip
    if_false: int = 0

    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.value)


def program(denials: Iterable[Denial], architecture: call_numbers.Architecture) -> bytes:
    """Return the filter: an array of ``struct sock_filter``.

    Denied are calls for another architecture (32-bit ones on x86_64), those of the x32 interface, and those newer than
    :data:`call_numbers.NEWEST`; then ``denials``, of which the first match applies. Everything else is allowed.
    """
    code = [
        _Instruction(_LOAD, _MACHINE),
        _Instruction(_EQUAL, architecture.audit, if_true=1),
        _denied(errno.EPERM),
        _Instruction(_LOAD, _NUMBER),
        _Instruction(_AT_LEAST, call_numbers.NEWEST + 1, if_false=1),  # x32 numbers have a high bit set
        _denied(errno.ENOSYS),
    ]
    for denial in denials:
        number = architecture.number(denial.name)
        if number is not None:
            code += _rule(number, denial)
    code.append(_Instruction(_RETURN, _ALLOW))
    return b"".join(instruction.packed() for instruction in code)


def _rule(number: int, denial: Denial) -> list[_Instruction]:
    """Deny a call, or continue with its number loaded."""
    wanted = (denial.where,) if isinstance(denial.where, (When, Unless)) else denial.where
    if not wanted:
        return [_Instruction(_EQUAL, number, if_false=1), _denied(denial.error)]
    code = [_denied(denial.error)]
    for one in reversed(wanted):
        code = [*_condition(one, len(code)), *code]
    return [_Instruction(_EQUAL, number, if_false=len(code) + 1), *code, _Instruction(_LOAD, _NUMBER)]


def _condition(wanted: When | Unless, rest: int) -> Iterator[_Instruction]:
    """Continue if it holds; if not, skip the ``rest``, too."""
    argument, values, mask = wanted
    yield _Instruction(_LOAD, _ARGUMENTS + 8 * argument)
    if mask != _WHOLE:
        yield _Instruction(_AND, mask)
    for left, value in zip(reversed(range(len(values))), values, strict=True):  # left: comparisons after this one
        if isinstance(wanted, When):
            yield _Instruction(_EQUAL, value & _WHOLE, if_true=left, if_false=0 if left else rest)
        else:
            yield _Instruction(_EQUAL, value & _WHOLE, if_true=left + rest)


def _denied(error: int) -> _Instruction:
    return _Instruction(_RETURN, _ERROR | error)
