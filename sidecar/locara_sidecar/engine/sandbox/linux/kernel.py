"""The system calls that confinement needs, in one class, so that tests can simulate any kernel.

Every method is one call and raises OSError if the call fails; nothing is decided here. Plain ctypes: the standard
library has none of these calls, and a package for three of them would be one more to trust.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture except Alpha
_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CLONE_NEWIPC = 0x08000000
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALL_THREADS = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC


class _Program(ctypes.Structure):  # sock_fprog
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


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
        """Return the version of Landlock's interface, from 1. ENOSYS or EOPNOTSUPP if it is missing or off."""
        nothing, size = ctypes.c_void_p(None), ctypes.c_size_t(0)
        return _syscall(_CREATE_RULESET, nothing, size, ctypes.c_uint32(_RULESET_VERSION))

    def create_ruleset(self, fs: int, net: int, scoped: int, size: int) -> int:
        """Create a ruleset and return its descriptor.

        :param size: the size of the structure that this kernel knows (8, 16 or 24 bytes).
        """
        attributes = _RulesetAttr(fs, net, scoped)
        return _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))

    def allow_beneath(self, ruleset: int, parent: int, access: int) -> None:
        """Allow ``access`` to the file that ``parent`` has open, or to everything below it if it is a folder."""
        attributes = _PathBeneathAttr(access, parent)
        kind, none = ctypes.c_int(_RULE_PATH_BENEATH), ctypes.c_uint32(0)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), kind, ctypes.byref(attributes), none)

    def restrict_self(self, ruleset: int) -> None:
        """Apply to this thread and all its descendants, irrevocably. Requires :meth:`no_new_privileges`."""
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))

    def no_new_privileges(self) -> None:
        """Prevent programs started from here from gaining rights by being set-user-id."""
        zero = ctypes.c_ulong(0)
        _checked(_libc().prctl(ctypes.c_int(_PR_SET_NO_NEW_PRIVS), ctypes.c_ulong(1), zero, zero, zero))

    # --- files --------------------------------------------------------------------------

    def open_path(self, path: str) -> tuple[int, bool]:
        """Return a descriptor that only identifies a file, and whether it is a folder. Follows links."""
        import stat

        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "Linux only")
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        return fd, stat.S_ISDIR(os.fstat(fd).st_mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    # --- namespaces ---------------------------------------------------------------------

    def leave_network(self) -> None:
        """Move to an empty network namespace, if the process may create one."""
        _checked(_libc().unshare(ctypes.c_int(_CLONE_NEWNET)))

    def leave_network_as_user(self) -> None:
        """Do the same inside a new user namespace, which ordinary users may create on many systems."""
        _checked(_libc().unshare(ctypes.c_int(_CLONE_NEWUSER | _CLONE_NEWNET)))

    def leave_shared_memory(self) -> None:
        """Move to a new namespace for System V's shared memory, semaphores and queues, and POSIX queues."""
        _checked(_libc().unshare(ctypes.c_int(_CLONE_NEWIPC)))

    def write_proc(self, name: str, text: str) -> None:
        """Write a file of ``/proc/self``."""
        assert sys.platform != "win32"
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    # --- the call filter ----------------------------------------------------------------

    def machine(self) -> str:
        """Return the architecture of these system calls, such as ``x86_64`` or ``aarch64``."""
        assert sys.platform != "win32"
        return os.uname().machine

    def own_pid(self) -> int:
        """Return the process id of this process, as its calls see it."""
        return os.getpid()

    def install_filter(self, program: bytes) -> None:
        """Let ``program`` (an array of ``struct sock_filter``) decide about every system call from now on.

        This applies to every thread of this process and to its children. Requires :meth:`no_new_privileges`.
        """
        number = _SECCOMP.get(self.machine())
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        attributes = _Program(len(program) // 8, program)
        wanted = (ctypes.c_uint(_SET_FILTER), ctypes.c_uint(_ALL_THREADS), ctypes.byref(attributes))
        if _syscall(number, *wanted):  # a thread that has a filter of its own
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    # --- privileges and limits ----------------------------------------------------------

    def prctl(self, option: int, first: int = 0, second: int = 0) -> int:
        """``prctl(2)``."""
        arguments = (ctypes.c_ulong(value) for value in (first, second, 0, 0))
        return _checked(_libc().prctl(ctypes.c_int(option), *arguments))

    def drop_capabilities(self) -> None:
        """Give up every capability."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _checked(_libc().capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))

    def limit(self, what: int, most: int) -> None:
        """Lower a limit irrevocably (``what``: ``resource.RLIMIT_…``). A limit that is already lower stays."""
        assert sys.platform != "win32"
        import resource

        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))
