"""Which system calls are denied.

These are all calls that affect other processes, others' memory or the kernel's own workings, and those that change a
file's attributes by name, which Landlock does not cover. What an engine needs remains: memory, threads, reading,
writing, and the accelerators' own calls (``ioctl``).

Each group is a row here, and has one in ``forbidden.py``, which tries it at every start.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox.linux import bpf, call_numbers, network
from locara_sidecar.engine.sandbox.linux.bpf import Denial, Unless, When

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locara_sidecar.engine.sandbox.linux.kernel import Kernel

_BY_NAME = (
    *("chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr", "removexattrat", "file_setattr"),
    # by descriptor, too: a model's file is open for reading only, but its owner may change it anyway
    *("fchmod", "fchown", "fsetxattr", "fremovexattr"),
)
_SET_ID = 0o6000
"""The bits of a mode by which a program runs as the user or group that owns it."""
_MAKES = 0o20000100
"""``O_CREAT``, and ``O_TMPFILE`` without ``O_DIRECTORY``. Without either, the kernel ignores the mode."""
_MAKING = (("open", 2, 1), ("openat", 3, 2), ("creat", 1, None), ("mknod", 1, None), ("mknodat", 2, None))
"""Calls that create a file, with the positions of the mode and of the flags among their arguments."""
_ATTRIBUTES = (  # of any file whose name is known; an attribute may say where it was downloaded from
    *("getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat"),
    "file_getattr",
)
_WATCHING = ("inotify_init", "inotify_init1", "inotify_add_watch", "fanotify_init", "fanotify_mark")
_OTHERS = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal"),
)
_SHARED = (
    *("shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semtimedop", "semctl"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"),
)
_KEYS = ("add_key", "request_key", "keyctl")
_KERNEL = (
    *("unshare", "setns", "userfaultfd", "bpf", "perf_event_open", "memfd_secret"),
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "statmount", "listmount", "name_to_handle_at", "open_by_handle_at"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff"),
    *("quotactl", "quotactl_fd", "acct", "syslog", "vhangup", "sethostname", "setdomainname", "iopl", "ioperm"),
    *("modify_ldt", "lookup_dcookie", "uselib", "nfsservctl", "clock_settime", "clock_adjtime", "settimeofday"),
    *("adjtimex", "lsm_set_self_attr", "seccomp"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups"),
)
_SHARES = ("io_setup", "sendmsg", "sendmmsg")
"""Calls that use up a share of the whole machine, or of all of a user's processes: asynchronous I/O, and descriptors in
flight through a socket. A process that took all of it would leave none for others.
"""
_RINGS = ("io_uring_setup", "io_uring_enter", "io_uring_register")

_OF_THREADS = 0x00010000
"""``CLONE_THREAD``."""
_NAMESPACES = 0x7E020000
"""``CLONE_NEWNS``, ``NEWCGROUP``, ``NEWUTS``, ``NEWIPC``, ``NEWUSER``, ``NEWPID``, ``NEWNET``."""
_SIBLING = 0x00008000
"""``CLONE_PARENT``: it would become a child of the daemon, which would never reap it."""
_PDEATHSIG, _SET_FILTER, _SUBREAPER, _SHARE_CORE = 1, 22, 36, 62  # of prctl
_DESCRIPTOR_REQUESTS = (8, 10, 15, 1024, 1026, 1031)
"""Of ``fcntl``: ``F_SETOWN``, ``F_SETSIG``, ``F_SETOWN_EX`` (a signal to any process), ``F_SETLEASE``,
``F_NOTIFY``, ``F_SETPIPE_SZ`` (of the user's share of pipes)."""
_SOCKET_PROGRAMS = (26, 50, 51, 52)
"""Of ``setsockopt``: ``SO_ATTACH_FILTER``, ``SO_ATTACH_BPF``, and those for a group of sockets."""
_DRIVERS = "FKdbNHGADT>"
"""The letters that distinguish the requests of accelerators' drivers from others (the second byte of the number):
NVIDIA's, AMD's, the kernel's own for graphics, buffers and fences, Jetson's, WSL's; and terminals', because libraries
ask whether they write to one.
"""
_PLAIN = 0
"""The byte of NVIDIA's requests for shared memory (UVM), which have no letter."""
_TERMINAL_REQUESTS = (0x540E, 0x5410, 0x5412, 0x541C, 0x5423)
"""``TIOCSCTTY``, ``TIOCSPGRP``, ``TIOCSTI`` and ``TIOCLINUX`` (typing into a terminal), ``TIOCSETD``."""
_PROCESS = 0  # PRIO_PROCESS
_IO_PROCESS = 1  # IOPRIO_WHO_PROCESS
_QUERY = 0xFFFFFFFF  # of personality
_OF_A_PROCESS = 0x80000000
"""The bit of clocks other than the system's: the CPU time of a process or thread, or a device's clock."""


def denials(own: int, *, processes: bool) -> list[Denial]:
    """Return what is denied to the process ``own``.

    :param processes: whether it may start further processes and programs (a compiler). Those stay in its process group,
        so that one signal ends them all. Otherwise there are none, and nothing can outlive the engine.
    """
    return [*network.DENIED, *_always(own), *(_COMPILING if processes else _ALONE)]


def apply(kernel: Kernel, *, processes: bool) -> str:
    """Deny the calls irrevocably, in every thread; returns a description. Requires ``no_new_privileges``.

    :raises OSError: if the kernel refuses, or the machine's call numbers are not known.
    """
    machine, own = kernel.machine(), kernel.own_pid()
    architecture = call_numbers.ARCHITECTURES.get(machine)
    if architecture is None:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known")
    found = denials(own, processes=processes)
    kernel.install_filter(bpf.program(found, architecture))
    return f"in use, {len({denial.name for denial in found})} calls" + (", with child processes" if processes else "")


def _always(own: int) -> Iterator[Denial]:
    for names in (_BY_NAME, _ATTRIBUTES, _WATCHING, _OTHERS, _SHARED, _SHARES, _KEYS, _KERNEL):
        for name in names:
            yield Denial(name, errno.EPERM)
    for name in _RINGS:  # they perform other calls past the filter; ENOSYS, as on a kernel without them
        yield Denial(name, errno.ENOSYS)
    for name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        yield Denial(name, errno.EPERM, Unless(0, (own,)))
    for name, mode, flags in _MAKING:
        makes = () if flags is None else (Unless(flags, (0,), _MAKES),)
        yield Denial(name, errno.EPERM, (*makes, Unless(mode, (0,), _SET_ID)))
    yield Denial("openat2", errno.ENOSYS)  # its mode is in memory, as clone3's flags are
    itself = (0, own)
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        yield Denial(name, errno.EPERM, Unless(0, itself))
    for name in ("migrate_pages", "move_pages"):
        yield Denial(name, errno.EPERM, Unless(0, itself))
    yield from _asking(itself)
    for name, kind in (("setpriority", _PROCESS), ("ioprio_set", _IO_PROCESS)):
        yield Denial(name, errno.EPERM, Unless(0, (kind,)))
        yield Denial(name, errno.EPERM, Unless(1, itself))
    yield Denial("personality", errno.EPERM, Unless(0, (_QUERY,)))
    # an engine must not cancel its parent-death signal
    yield Denial("prctl", errno.EPERM, When(0, (_PDEATHSIG, _SET_FILTER, _SUBREAPER, _SHARE_CORE)))
    yield Denial("fcntl", errno.EPERM, When(1, _DESCRIPTOR_REQUESTS))
    yield Denial("setsockopt", errno.EPERM, When(2, _SOCKET_PROGRAMS))
    # file systems have hundreds of requests that need only a descriptor for reading: only drivers' go through
    of_drivers = tuple(ord(letter) << 8 for letter in _DRIVERS)
    yield Denial("ioctl", errno.EPERM, Unless(1, (*of_drivers, _PLAIN), 0xFF00))
    yield Denial("ioctl", errno.EPERM, When(1, _TERMINAL_REQUESTS))
    # child processes, if allowed, stay in its group, which is killed as one; EACCES, because a group leader gets EPERM
    # anyway, so that trying it would prove nothing
    for name in ("setsid", "setpgid"):
        yield Denial(name, errno.EACCES)
    # clone3's flags are in memory, where no filter can read them; libraries fall back to clone
    yield Denial("clone3", errno.ENOSYS)


def _asking(itself: tuple[int, int]) -> Iterator[Denial]:
    """Deny questions about other processes. Libraries ask some of them (sched_get…) about their own threads, whose
    numbers no filter can know.
    """
    for name in ("getpgid", "getsid", "sched_getattr", "sched_rr_get_interval", "get_robust_list"):
        yield Denial(name, errno.EPERM, Unless(0, itself))
    for name in ("clock_gettime", "clock_getres", "clock_nanosleep", "timer_create"):
        yield Denial(name, errno.EPERM, When(0, (_OF_A_PROCESS,), _OF_A_PROCESS))
    for name, kind in (("getpriority", _PROCESS), ("ioprio_get", _IO_PROCESS)):
        yield Denial(name, errno.EPERM, Unless(0, (kind,)))
        yield Denial(name, errno.EPERM, Unless(1, itself))


_ALONE = (
    Denial("clone", errno.EPERM, Unless(0, (_OF_THREADS,), _OF_THREADS | _NAMESPACES)),
    *(Denial(name, errno.EPERM) for name in ("fork", "vfork", "execve", "execveat")),
)
_COMPILING = (
    Denial("clone", errno.EPERM, Unless(0, (0,), _NAMESPACES | _SIBLING)),
    Denial("memfd_create", errno.EPERM),  # programs could be run from it without being in any folder
)
