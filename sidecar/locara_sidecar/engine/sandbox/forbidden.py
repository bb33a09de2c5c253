"""System calls that an engine must not make, each tried with arguments that refer to nothing.

That is a missing file, a process that cannot exist, or no descriptor. The kernel then reports what is missing; only a
filter denies the call. A call that this kernel does not have, or denies to this user anyway, counts as blocked: all
that matters is that it has no effect. Without confinement they have no effect either.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from typing import Any, Literal

from locara_sidecar.engine.sandbox.linux import call_numbers

Outcome = Literal["blocked", "open", "unknown"]

_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
_NOBODY = 0x7FFFFFF0
"""Larger than any process id."""
_NOTHING = b"/nonexistent/locara"
_HERE = -100  # AT_FDCWD
_NONE = -1  # no descriptor
_WRONG = 0x7FFFFFFF  # no flags, no command
_NAME = b"user.locara"

ROWS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "fileAttributes": (
        ("chmod", _NOTHING, 0),
        ("fchmod", _NONE, 0),
        ("fchmodat", _HERE, _NOTHING, 0),
        ("fchmodat2", _HERE, _NOTHING, 0, 0),
        ("chown", _NOTHING, -1, -1),
        ("fchownat", _HERE, _NOTHING, -1, -1, 0),
        ("utime", _NOTHING, None),
        ("utimensat", _HERE, _NOTHING, None, 0),
        ("setxattr", _NOTHING, _NAME, b"", 0, 0),
        ("fsetxattr", _NONE, _NAME, b"", 0, 0),
        ("removexattr", _NOTHING, _NAME),
        ("setxattrat", _HERE, _NOTHING, 0, _NAME, None, 0),
        ("removexattrat", _HERE, _NOTHING, 0, _NAME),
        ("file_setattr", _HERE, _NOTHING, None, 0, 0),
        ("open", _NOTHING, os.O_WRONLY | os.O_CREAT, 0o4755),
        ("openat", _HERE, _NOTHING, os.O_WRONLY | os.O_CREAT, 0o2755),
        ("openat", _HERE, _NOTHING, os.O_WRONLY | 0o20200000, 0o4755),  # O_TMPFILE
        ("openat2", _HERE, _NOTHING, None, 0),
        ("mknodat", _HERE, _NOTHING, 0o104755, 0),
        ("ioctl", _NONE, 0x40086602, 0),  # FS_IOC_SETFLAGS
        ("ioctl", _NONE, 0x40086604, 0),  # EXT4_IOC_SETVERSION_OLD, for all requests of file systems
    ),
    "attributesRead": (
        ("getxattr", _NOTHING, _NAME, None, 0),
        ("listxattr", _NOTHING, None, 0),
        ("file_getattr", _HERE, _NOTHING, None, 0, 0),
    ),
    "fileWatches": (
        ("inotify_init1", _WRONG),
        ("inotify_add_watch", _NONE, _NOTHING, 1),
        ("fanotify_init", _WRONG, 0),
        ("fcntl", _NONE, 1026, 0),  # F_NOTIFY
    ),
    "signals": (
        ("kill", _NOBODY, 0),
        ("tkill", _NOBODY, 0),
        ("tgkill", _NOBODY, _NOBODY, 0),
        ("rt_sigqueueinfo", _NOBODY, 0, None),
        ("rt_tgsigqueueinfo", _NOBODY, _NOBODY, 0, None),
        ("pidfd_send_signal", _NONE, 0, None, 0),
        ("fcntl", _NONE, 8, _NOBODY),  # F_SETOWN
        ("ioctl", _NONE, 0x8901, None),  # FIOSETOWN
    ),
    "otherProcesses": (
        ("ptrace", 16, _NOBODY, 0, 0),  # PTRACE_ATTACH
        ("process_vm_readv", _NOBODY, None, 0, None, 0, 0),
        ("process_vm_writev", _NOBODY, None, 0, None, 0, 0),
        ("pidfd_open", _NOBODY, 0),
        ("pidfd_getfd", _NONE, 0, 0),
        ("process_madvise", _NONE, None, 0, 0, 0),
        ("kcmp", _NOBODY, _NOBODY, 0, 0, 0),
        ("prlimit64", _NOBODY, 4, None, None),
        ("getpgid", _NOBODY),
        ("getsid", _NOBODY),
        ("getpriority", 0, _NOBODY),
        ("ioprio_get", 1, _NOBODY),
        ("clock_gettime", ~0x0FFFFFF0 << 3 | 2, None),  # CPU time; an id that fits next to the kind of clock
        ("setpriority", 0, _NOBODY, 19),
        ("setpriority", 2, _NOBODY, 19),  # all processes of a user
        ("sched_setaffinity", _NOBODY, 0, None),
        ("sched_setscheduler", _NOBODY, 0, None),
        ("sched_setparam", _NOBODY, None),
        ("sched_setattr", _NOBODY, None, 0),
        ("ioprio_set", 1, _NOBODY, 0),
        ("migrate_pages", _NOBODY, 0, None, None),
        ("move_pages", _NOBODY, 0, None, None, None, 0),
        ("prctl", 62, _WRONG, _NOBODY, 0, 0),  # PR_SCHED_CORE
        ("get_robust_list", _NOBODY, None, None),
    ),
    "sharedLimits": (
        ("io_setup", 0, None),
        ("sendmsg", _NONE, None, 0),
        ("sendmmsg", _NONE, None, 0, 0),
        ("fcntl", _NONE, 1031, 0),  # F_SETPIPE_SZ
    ),
    "sharedMemory": (
        ("shmget", 0, 0, 0),
        ("shmat", -1, None, 0),
        ("shmctl", -1, 0, None),
        ("semget", 0, 0, 0),
        ("semctl", -1, 0, 0, 0),
        ("msgget", _WRONG, 0),
        ("msgctl", -1, 0, None),
        ("mq_open", b"locara-nonexistent", 0, 0, None),
    ),
    "keyrings": (
        ("add_key", None, None, None, 0, 0),
        ("request_key", None, None, None, 0),
        ("keyctl", _WRONG, 0, 0, 0, 0),
    ),
    "namespaces": (
        ("unshare", 1),
        ("setns", _NONE, 0),
        ("clone", 0x10000800, None, None, None, 0),  # CLONE_NEWUSER, and CLONE_SIGHAND without what it requires
        ("clone3", None, 0),
    ),
    "kernelInterfaces": (
        ("bpf", _WRONG, None, 0),
        ("perf_event_open", None, 0, -1, -1, 0),
        ("userfaultfd", _WRONG),
        ("io_uring_setup", 0, None),
        ("io_uring_enter", _NONE, 0, 0, 0, None, 0),
        ("mount", None, _NOTHING, None, 0, None),
        ("umount2", _NOTHING, 0),
        ("chroot", _NOTHING),
        ("open_tree", _NONE, _NOTHING, 0),
        ("move_mount", _NONE, _NOTHING, _NONE, _NOTHING, 0),
        ("fsopen", None, 0),
        ("name_to_handle_at", _NONE, _NOTHING, None, None, 0),
        ("open_by_handle_at", _NONE, None, 0),
        ("init_module", None, 0, None),
        ("finit_module", _NONE, None, 0),
        ("kexec_load", 0, 0, None, 0xFFFF),
        ("swapon", _NOTHING, 0),
        ("quotactl", _WRONG, None, 0, None),
        ("acct", _NOTHING),
        ("reboot", 0, 0, 0, None),
        ("personality", 0),
        ("clock_settime", 99, None),
        ("adjtimex", None),
        ("syslog", 99, None, 0),
        ("setresuid", -1, -1, -1),
        ("setgroups", -1, None),
        ("seccomp", _WRONG, 0, None),
        ("prctl", 22, _WRONG, None, 0, 0),  # PR_SET_SECCOMP
        ("setsockopt", _NONE, 1, 26, None, 0),  # SO_ATTACH_FILTER
    ),
    "processes": (
        ("clone", 0x800, None, None, None, 0),
        ("execve", _NOTHING, None, None),
        ("execveat", _NONE, _NOTHING, None, None, 0),
    ),
    "outliving": (
        ("setpgid", _NOBODY, 0),
        ("prctl", 1, _WRONG, 0, 0, 0),  # PR_SET_PDEATHSIG
    ),
}
"""Example calls for each row: a name and arguments."""


def all_calls() -> dict[str, Outcome]:
    """Try every row once. Empty on other systems; "unknown" on machines whose call numbers are not known."""
    if sys.platform != "linux":
        return {}
    architecture = call_numbers.ARCHITECTURES.get(os.uname().machine)
    if architecture is None:
        return dict.fromkeys((*ROWS, "capabilities"), "unknown")
    found: dict[str, Outcome] = {}
    for row, calls in ROWS.items():
        let_through = any(_goes_through(architecture.number(name), arguments) for name, *arguments in calls)
        found[row] = "open" if let_through else "blocked"
    found["capabilities"] = "open" if _capable() else "blocked"
    return found


def _goes_through(number: int | None, arguments: list[Any]) -> bool:
    if number is None:  # not on this machine
        return False
    given = [ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one or 0) for one in arguments]
    result = _libc().syscall(ctypes.c_long(number), *given)
    return result >= 0 or ctypes.get_errno() not in _REFUSED


def _capable() -> bool:
    """Whether this process holds a capability, or could gain one by starting a program."""
    get_no_new_privileges = 39
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    libc = _libc()
    if libc.capget(ctypes.byref(header), ctypes.byref(held)) != 0 or any(held):
        return True  # includes ambient capabilities
    return libc.prctl(get_no_new_privileges, *map(ctypes.c_ulong, (0, 0, 0, 0))) != 1


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
