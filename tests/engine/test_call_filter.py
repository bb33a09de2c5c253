"""The filter of system calls, run by an interpreter: its answer on each machine, call by call."""

from __future__ import annotations

import ctypes
import errno
import itertools
import re
import struct
from pathlib import Path

import pytest

from locara_sidecar.engine.sandbox import forbidden
from locara_sidecar.engine.sandbox.linux import bpf, call_numbers, calls

OWN, OTHER = 4711, 4712
ALLOW, ERROR = 0x7FFF0000, 0x00050000
MACHINES = pytest.mark.parametrize("machine", list(call_numbers.ARCHITECTURES))


def run(program, number, arguments=(), audit=0xC000003E):
    """Return what a kernel would do with a call: None if it is allowed, else the error."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(tuple(arguments) + (0,) * 6)[:6])
    accumulator, position = 0, 0
    code = list(struct.iter_unpack("=HBBI", program))
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x15:
            position += if_true if accumulator == value else if_false
        elif operation == 0x35:
            position += if_true if accumulator >= value else if_false
        elif operation == 0x54:
            accumulator &= value
        else:
            assert operation == 0x06
            return None if value == ALLOW else value - ERROR


def answers(machine, *, processes=False):
    """Return a function that maps a call's name and arguments to the filter's answer on ``machine``."""
    architecture = call_numbers.ARCHITECTURES[machine]
    program = bpf.program(calls.denials(OWN, processes=processes), architecture)
    assert len(program) // 8 <= 4096, "the kernel takes no more instructions"

    def answer(name, *arguments):
        number = architecture.number(name)
        return (
            errno.ENOSYS
            if number is None
            else run(program, number, [n & (1 << 64) - 1 for n in arguments], architecture.audit)
        )

    return answer


FAMILIES = {
    "files by name": "chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat "
    "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr",
    "attributes": "getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat file_getattr",
    "watching": "inotify_init inotify_init1 inotify_add_watch fanotify_init fanotify_mark",
    "others": "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd pidfd_send_signal",
    "shared memory": "shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink",
    "keys": "add_key request_key keyctl",
    "what all share": "io_setup sendmsg sendmmsg",
    "the kernel": "unshare setns userfaultfd bpf perf_event_open io_uring_setup io_uring_enter io_uring_register mount "
    "umount2 pivot_root chroot open_tree move_mount fsopen fsmount mount_setattr name_to_handle_at open_by_handle_at "
    "kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff quotactl acct syslog "
    "clock_settime clock_adjtime settimeofday adjtimex sethostname setresuid setgroups setns clone3 seccomp",
    "leaving its group": "setsid setpgid",
}


@MACHINES
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_families_are_denied_whatever_the_arguments_are(machine, processes, family):
    answer = answers(machine, processes=processes)
    for name in FAMILIES[family].split():
        assert {answer(name), answer(name, 1, 2, 3), answer(name, -1, -1)} <= {
            errno.EPERM,
            errno.ENOSYS,
            errno.EACCES,
        }, name


@MACHINES
def test_calls_that_name_a_process_reach_this_one_only(machine):
    answer = answers(machine)
    for name in ("kill", "tgkill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        assert answer(name, OWN, OWN, 9) is None, name
        for pid in (OTHER, 0, -1, -OWN, 1):  # 0: a group, in which the daemon may be
            assert answer(name, pid, pid, 9) == errno.EPERM, (name, pid)
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setattr", "move_pages"):
        assert [answer(name, pid) for pid in (0, OWN)] == [None, None], name
        assert answer(name, OTHER) == errno.EPERM, name
    for name in ("getpgid", "getsid", "sched_getattr", "sched_rr_get_interval", "get_robust_list"):
        assert [answer(name, pid) for pid in (0, OWN)] == [None, None], name
        assert answer(name, OTHER) == errno.EPERM, name
    for name, process in (("setpriority", 0), ("getpriority", 0), ("ioprio_set", 1), ("ioprio_get", 1)):
        assert answer(name, process, 0) is None
        assert answer(name, process, OWN) is None
        assert answer(name, process, OTHER) == errno.EPERM
        for group_or_user in {0, 1, 2, 3} - {process}:
            assert answer(name, group_or_user, 0) == errno.EPERM
    for name in ("clock_gettime", "clock_getres", "clock_nanosleep", "timer_create"):
        assert [answer(name, clock) for clock in range(12)] == [None] * 12, "the system's, this process's and thread's"
        for kind in (2, 6):  # a process's, a thread's
            assert answer(name, (~OTHER << 3) | kind) == errno.EPERM, name
    # the kernel uses the lower half of a pid, and so does the filter
    assert answer("prlimit64", OTHER | 1 << 40) == errno.EPERM
    assert answer("kill", OWN | 1 << 40, 9) is None


@MACHINES
def test_threads_are_made_and_processes_are_not(machine):
    thread = 0x003D0F00  # glibc's
    alone, compiling = answers(machine), answers(machine, processes=True)
    assert alone("clone", thread) is None
    assert compiling("clone", thread) is None
    assert alone("clone3") == compiling("clone3") == errno.ENOSYS, "libraries then call clone"
    for flags in (17, 0x4111, 0x01200011):  # fork; vfork and posix_spawn; fork as glibc has it
        assert alone("clone", flags) == errno.EPERM
        assert compiling("clone", flags) is None
    for name in ("fork", "vfork", "execve", "execveat"):
        assert alone(name) in (errno.EPERM, errno.ENOSYS)
        assert compiling(name) is None or machine == "aarch64"
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        for answer in (alone, compiling):
            assert answer("clone", thread | namespace) == errno.EPERM
            assert answer("clone", 17 | namespace) == errno.EPERM
    assert compiling("clone", 17 | 0x8000) == errno.EPERM, "a child of the daemon's"
    assert compiling("memfd_create") == errno.EPERM, "programs are in folders that the engine cannot write"
    assert alone("memfd_create") is None


@MACHINES
def test_what_takes_a_command_is_denied_by_command(machine):
    answer = answers(machine)
    for option in (1, 22, 36, 62):
        assert answer("prctl", option, 0) == errno.EPERM
    for option in (15, 38):  # a thread's name, no new privileges
        assert answer("prctl", option, 0) is None
    for command in (8, 10, 15, 1024, 1026, 1031):
        assert answer("fcntl", 3, command) == errno.EPERM
    for command in (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1033):
        assert answer("fcntl", 3, command) is None
    for option in (26, 50, 51, 52):
        assert answer("setsockopt", 3, 1, option) == errno.EPERM, "a program for the kernel to run"
    assert answer("setsockopt", 3, 1, 7) is None
    assert answer("personality", 0xFFFFFFFF) is None
    assert answer("personality", 0x0400000) == errno.EPERM


def test_a_call_is_denied_if_all_conditions_hold_and_else_left_alone():
    both = (bpf.When(0, (1, 2)), bpf.Unless(1, (3, 5), 0xF), bpf.When(2, (5,)))
    denials = [bpf.Denial("openat", errno.EPERM, both), bpf.Denial("mknodat", errno.EACCES)]
    architecture = call_numbers.ARCHITECTURES["x86_64"]
    program = bpf.program(denials, architecture)
    for first, second, third in itertools.product((0, 1, 2, 3, 5), (0, 3, 0x13, 4, 5, 0x15), (0, 1, 3, 5)):
        denied = first in (1, 2) and second & 0xF not in (3, 5) and third == 5
        found = run(program, architecture.number("openat"), (first, second, third))
        assert found == (errno.EPERM if denied else None), (first, second, third)
    assert run(program, architecture.number("mknodat"), (1, 0, 5)) == errno.EACCES, "the next rule has the number again"


@MACHINES
def test_no_file_is_made_that_runs_as_its_owner(machine):
    answer = answers(machine)
    calls_with_flags = (("open", (0,)), ("openat", (-100, 0)))
    for name, before in calls_with_flags:
        for makes in (0o100, 0o101, 0o102 | 0o2000000, 0o20200001):  # O_CREAT in all, O_TMPFILE
            for mode in (0o4755, 0o2755, 0o6000, 0o104755):
                assert answer(name, *before, makes, mode) in (errno.EPERM, errno.ENOSYS), (name, oct(mode))
            assert answer(name, *before, makes, 0o1777) is None or machine == "aarch64"
        # without O_CREAT the mode is ignored, and some libraries leave whatever the register held
        assert answer(name, *before, 0o2000000, 0o4755) is None or machine == "aarch64"
    for name, *arguments in (("creat", 0, 0o4755), ("mknod", 0, 0o104755), ("mknodat", -100, 0, 0o102755)):
        assert answer(name, *arguments) in (errno.EPERM, errno.ENOSYS), name
    for name, *arguments in (("openat", -100, 0, 0o101, 0o644), ("mknodat", -100, 0, 0o10600)):
        assert answer(name, *arguments) is None, name
    assert answer("openat", -100, 0, 0o101, 0o4755) == answer("mknodat", -100, 0, 0o104755) == errno.EPERM
    assert answer("openat2") == errno.ENOSYS, "libraries then call openat"


FILE_SYSTEMS = {
    "all": (0x40086602, 0x401C5820, 0x40087602, 0x40806685, 0x800C6613, 0xC0506617, 0xC0406618, 0xC0406619, 0xC020660B),
    "ext4": (0x40086604, 0x660C, 0x6609, 0x40086607),
    "btrfs and shared blocks": (0x40049409, 0x4008941A, 0x5000940F, 0xC0189436),
    "f2fs, XFS, FAT, exFAT": (0xF501, 0x4004F50D, 0x40085881, 0x40047211),
    "freezing and trimming": (0xC0045877, 0xC0185879),
    "a disk": (0x1277, 0x125D),
    "a network share, a program's": (0x40189702, 0xC018CF07, 0x8004E500),
}
DRIVERS = {
    "NVIDIA": (0xC030462B, 0xC020462A, 0x30000001, 27, 46),
    "AMD": (0x80084B01, 0xC0304B20),
    "graphics": (0xC0106407, 0xC0106445, 0x40086200, 0xC0303E04),
    "Jetson, WSL": (0xC0084E00, 0x4008480F, 0xC0184708, 0xC0104101),
    "a terminal, a pipe": (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
}


@MACHINES
def test_of_a_descriptor_s_requests_only_those_of_drivers_go_through(machine):
    answer = answers(machine)
    denied = [0x8901, 0x8902, 0x540E, 0x5412, 0x541C, *(one for numbers in FILE_SYSTEMS.values() for one in numbers)]
    for request in denied:
        assert answer("ioctl", 3, request) == errno.EPERM, hex(request)
        assert answer("ioctl", 3, request | 1 << 32) == errno.EPERM, "the kernel drops the upper half"
    for request in (one for numbers in DRIVERS.values() for one in numbers):
        assert answer("ioctl", 3, request) is None, hex(request)


@MACHINES
def test_sockets_reach_nobody(machine):
    answer = answers(machine)
    local, cloexec = 1, 0o2000000
    for family in (2, 10, 16, 17, 40):
        assert answer("socket", family, 1) == errno.EACCES
    for kind in (2, 3):
        assert answer("socket", local, kind | cloexec) == errno.EACCES
        assert answer("socketpair", local, kind) == errno.EACCES
    for kind in (1, 5):
        assert answer("socket", local, kind | cloexec) is None
        assert answer("socketpair", local, kind) is None
    assert answer("connect", 3) == errno.EACCES


@MACHINES
def test_other_machines_calls_and_those_of_later_kernels_are_refused(machine):
    architecture = call_numbers.ARCHITECTURES[machine]
    program = bpf.program(calls.denials(OWN, processes=False), architecture)
    for foreign in {0x40000003, 0x40000028, 0xC000003E, 0xC00000B7} - {architecture.audit}:
        assert run(program, 63, audit=foreign) == errno.EPERM
    for number in (call_numbers.NEWEST + 1, 0x40000000, 0x40000000 | 59, 0xFFFFFFFF):  # x32 calls have that bit
        assert run(program, number, audit=architecture.audit) == errno.ENOSYS
    assert run(program, 63, audit=architecture.audit) is None


def test_each_family_that_is_denied_is_tried_at_start():
    tried = {name for row in forbidden.ROWS.values() for name, *_ in row}
    for family, names in FAMILIES.items():
        assert tried & set(names.split()), family
    assert tried <= set(call_numbers.names())


@MACHINES
def test_all_that_is_tried_at_start_is_denied(machine):
    answer = answers(machine)
    for row, tried in forbidden.ROWS.items():
        for name, *arguments in tried:
            numbers = [one if isinstance(one, int) else 0 for one in arguments]
            assert answer(name, *numbers) is not None, (row, name)


def test_a_machine_whose_calls_are_not_known_is_told():
    class Strange:
        def machine(self):
            return "s390x"

        def own_pid(self):
            return OWN

    with pytest.raises(OSError, match="s390x"):
        calls.apply(Strange(), processes=False)


# --- the numbers ----------------------------------------------------------------------------


def defined(path, pattern):
    if not Path(path).exists():
        pytest.skip(f"{path} is not here (linux-libc-dev)")
    found = {}
    for name, number in re.findall(pattern, Path(path).read_text()):
        found.setdefault(name, int(number))
    return found


@pytest.mark.parametrize(
    ("machine", "path", "pattern"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"__NR_(\w+) (\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ],
)
def test_the_numbers_are_the_headers(machine, path, pattern):
    headers = defined(path, pattern)
    architecture = call_numbers.ARCHITECTURES[machine]
    known = [name for name in call_numbers.names() if name in headers]
    assert len(known) > 100
    assert {name: architecture.number(name) for name in known} == {name: headers[name] for name in known}


@MACHINES
def test_the_numbers_are_libseccomp_s(machine):
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not here")
    architecture = call_numbers.ARCHITECTURES[machine]
    for name in call_numbers.names():
        number = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(architecture.audit), name.encode())
        known = architecture.number(name)
        assert number in (known if known is not None else -1, -1) or (number < 0 and known is None), name
