"""The system calls that confinement needs, in one table, so that a test can play any kernel.

Every method is one call and raises OSError as the call fails; nothing here decides anything. Plain ctypes: the
standard library has none of them, and a package for three system calls would be one more to trust.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture but Alpha
_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_ACT_ALLOW = 0x7FFF0000
_ACT_ERRNO = 0x00050000
_NOT_EQUAL, _MASKED_EQUAL = 1, 7


class ArgumentDiffers(NamedTuple):
    """A call whose argument ``argument`` (from 0) is not ``value``."""

    argument: int
    value: int

    def compare(self) -> tuple[int, int, int, int]:
        """As libseccomp takes it: argument, operator and two values."""
        return self.argument, _NOT_EQUAL, self.value, 0


class ArgumentEquals(NamedTuple):
    """A call whose argument ``argument`` (from 0) is ``value`` in the bits of ``mask``."""

    argument: int
    mask: int
    value: int

    def compare(self) -> tuple[int, int, int, int]:
        """As libseccomp takes it: argument, operator and two values."""
        return self.argument, _MASKED_EQUAL, self.mask, self.value


class Denial(NamedTuple):
    """A system call that fails with ``error``, always or where its arguments are as ``where`` says."""

    name: str
    error: int
    where: ArgumentDiffers | ArgumentEquals | None = None


class _Compare(ctypes.Structure):  # scmp_arg_cmp
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(number: int, *arguments: Any) -> int:
    return _checked(_libc().syscall(ctypes.c_long(number), *arguments))


class Kernel:
    """The real calls (Linux)."""

    # --- Landlock -----------------------------------------------------------------------

    def landlock_abi(self) -> int:
        """The version of Landlock's interface, from 1; ENOSYS or EOPNOTSUPP where it is missing or off."""
        nothing, size = ctypes.c_void_p(None), ctypes.c_size_t(0)
        return _syscall(_CREATE_RULESET, nothing, size, ctypes.c_uint32(_RULESET_VERSION))

    def create_ruleset(self, fs: int, net: int, scoped: int, size: int) -> int:
        """A descriptor. ``size``: how much of the structure this kernel knows (8, 16 or 24 bytes)."""
        attributes = _RulesetAttr(fs, net, scoped)
        return _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))

    def allow_beneath(self, ruleset: int, parent: int, access: int) -> None:
        """Allow ``access`` to the file that ``parent`` is open on, or below the folder."""
        attributes = _PathBeneathAttr(access, parent)
        kind, none = ctypes.c_int(_RULE_PATH_BENEATH), ctypes.c_uint32(0)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), kind, ctypes.byref(attributes), none)

    def restrict_self(self, ruleset: int) -> None:
        """Apply to this thread and all that it starts, for good; needs :meth:`no_new_privileges`."""
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))

    def no_new_privileges(self) -> None:
        """No program started from here gains rights by being set-user-id."""
        zero = ctypes.c_ulong(0)
        _checked(_libc().prctl(ctypes.c_int(_PR_SET_NO_NEW_PRIVS), ctypes.c_ulong(1), zero, zero, zero))

    # --- files --------------------------------------------------------------------------

    def open_path(self, path: str) -> tuple[int, bool]:
        """A descriptor that only names a file, and whether it is a folder; links are followed."""
        import stat

        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "Linux only")
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        return fd, stat.S_ISDIR(os.fstat(fd).st_mode)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    # --- the network namespace ----------------------------------------------------------

    def leave_network(self) -> None:
        """An empty network namespace, for a process that may make one."""
        _checked(_libc().unshare(ctypes.c_int(_CLONE_NEWNET)))

    def leave_network_as_user(self) -> None:
        """The same inside a user namespace of its own, which an ordinary user may make on many systems."""
        _checked(_libc().unshare(ctypes.c_int(_CLONE_NEWUSER | _CLONE_NEWNET)))

    def write_proc(self, name: str, text: str) -> None:
        """Write a file of ``/proc/self``."""
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def drop_capabilities(self) -> None:
        """Give up every capability (a new user namespace gives a full set)."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _checked(_libc().capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))

    # --- seccomp, through libseccomp ----------------------------------------------------

    def deny_calls(self, denied: Iterable[Denial]) -> str:
        """From now on these system calls fail; returns the library's version.

        :raises OSError: ENOSYS where the library is not installed, else what it answered.
        """
        try:
            library: Any = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError as error:
            raise OSError(38, "libseccomp is not installed") from error
        library.seccomp_init.restype = ctypes.c_void_p
        context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ACT_ALLOW)))
        if not context:
            raise OSError(12, "seccomp_init failed")
        try:
            for denial in denied:
                call = ctypes.c_int(library.seccomp_syscall_resolve_name(denial.name.encode()))
                action = ctypes.c_uint32(_ACT_ERRNO | denial.error)
                compared = [] if denial.where is None else [_Compare(*denial.where.compare())]
                count, array = ctypes.c_uint(len(compared)), (_Compare * len(compared))(*compared)
                _negated(library.seccomp_rule_add_array(context, action, call, count, array))
            _negated(library.seccomp_load(context))
        finally:
            library.seccomp_release(context)
        return _version(library)


def _negated(result: int) -> None:
    """libseccomp answers with a negative error number."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _version(library: Any) -> str:
    with contextlib.suppress(AttributeError, ValueError):
        library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
        return ".".join(str(part) for part in library.seccomp_version().contents)
    return "2"
