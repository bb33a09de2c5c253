"""Acts on processes: starting some, outliving the daemon, and the user's other ones."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import subprocess
import time

from support.evil import Skipped, World, act, raw

OWN, OTHERS = "own processes", "other processes"


def _ended(pid: int) -> None:
    """In the child, end (not by ``_exit``, which the evil engine has taken away); in the parent, wait for it."""
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


@act(OWN, "fork")
def fork(world: World) -> None:
    _ended(os.fork())


@act(OWN, "vfork a program")
def spawn(world: World) -> None:
    subprocess.run(["/bin/true"], check=False)


@act(OWN, "posix_spawn a program")
def posix_spawn(world: World) -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


@act(OWN, "clone, past the library")
def clone(world: World) -> None:
    _ended(raw("clone", signal.SIGCHLD, None, None, None, 0))


@act(OWN, "the call fork, past the library")
def fork_call(world: World) -> None:
    _ended(raw("fork"))


@act(OWN, "clone3")
def clone3(world: World) -> None:
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD)
    _ended(raw("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments)))


@act(OWN, "leave a child in a session of its own, without a pipe")
def survivor(world: World) -> None:
    if (child := os.fork()) == 0:
        os.setsid()
        with open(f"{world.scratch}/survivor", "w") as file:
            file.write(str(os.getpid()))
        os.closerange(0, 1 << 10)
        time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3000):  # until it has reported itself
        if os.path.exists(f"{world.scratch}/survivor") and os.path.getsize(f"{world.scratch}/survivor"):
            break
        time.sleep(0.01)
    assert child


@act(OWN, "leave its process group")
def leave_group(world: World) -> None:
    raw("setpgid", 0, world.victim)


@act(OWN, "call off its death with the daemon")
def death_signal(world: World) -> None:
    raw("prctl", 1, 0, 0, 0, 0)


@act(OWN, "load a program into memory and execute it")
def memory_program(world: World) -> None:
    fd = os.memfd_create("evil")
    try:
        with open("/bin/true", "rb") as program:
            os.write(fd, program.read())
        os.waitpid(os.posix_spawn(f"/proc/self/fd/{fd}", ["true"], {}), 0)
    finally:
        os.close(fd)


@act(OWN, "execute what it wrote")
def written_program(world: World) -> None:
    path = f"{world.scratch}/program"
    with open("/bin/true", "rb") as program, open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o700), "wb") as file:
        file.write(program.read())
    os.waitpid(os.posix_spawn(path, ["program"], {}), 0)


@act(OTHERS, "ask whether another process may be signalled")
def kill_nothing(world: World) -> None:
    os.kill(world.victim, 0)


@act(OTHERS, "ask whether the daemon may be signalled")
def kill_daemon(world: World) -> None:
    os.kill(os.getppid(), 0)


@act(OTHERS, "ask whether everybody may be signalled")
def kill_all(world: World) -> None:
    os.kill(-1, 0)


@act(OTHERS, "signal the group of another process")
def kill_group(world: World) -> None:
    os.killpg(os.getpgid(world.victim), 0)


@act(OTHERS, "signal a thread of another process")
def thread_kill(world: World) -> None:
    raw("tgkill", world.victim, world.victim, 0)


@act(OTHERS, "tkill")
def task_kill(world: World) -> None:
    raw("tkill", world.victim, 0)


@act(OTHERS, "queue a signal")
def queue_signal(world: World) -> None:
    info = (ctypes.c_int32 * 32)(0, 0, -1)  # SI_QUEUE
    raw("rt_sigqueueinfo", world.victim, 0, ctypes.byref(info))


@act(OTHERS, "signal by a descriptor of the process")
def descriptor_signal(world: World) -> None:
    fd = raw("pidfd_open", world.victim, 0)
    try:
        raw("pidfd_send_signal", fd, 0, None, 0)
    finally:
        os.close(fd)


@act(OTHERS, "have the kernel signal it when a socket is ready")
def owner_signal(world: World) -> None:
    one, two = socket.socketpair()
    with one, two:
        fcntl.fcntl(one.fileno(), fcntl.F_SETOWN, world.victim)


@act(OTHERS, "the same by ioctl")
def owner_ioctl(world: World) -> None:
    one, two = socket.socketpair()
    with one, two:
        fcntl.ioctl(one.fileno(), 0x8901, ctypes.c_int(world.victim))


@act(OTHERS, "take a descriptor of another process")
def take_descriptor(world: World) -> None:
    raw("pidfd_getfd", raw("pidfd_open", world.victim, 0), 0, 0)


@act(OTHERS, "trace it")
def trace(world: World) -> None:
    raw("ptrace", 0x4206, world.victim, 0, 0)  # PTRACE_SEIZE


@act(OTHERS, "read its memory")
def read_memory(world: World) -> None:
    _between("process_vm_readv", world)


@act(OTHERS, "write its memory")
def write_memory(world: World) -> None:
    _between("process_vm_writev", world)


def _between(name: str, world: World) -> None:
    buffer = ctypes.create_string_buffer(1)
    own = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 1)
    raw(name, world.victim, ctypes.byref(own), 1, ctypes.byref(own), 0, 0)


@act(OTHERS, "open its memory in /proc")
def memory_file(world: World) -> None:
    os.close(os.open(f"/proc/{world.victim}/mem", os.O_RDWR))


@act(OTHERS, "read its environment in /proc")
def environment(world: World) -> None:
    with open(f"/proc/{world.victim}/environ", "rb") as file:
        file.read(1)


@act(OTHERS, "list its descriptors in /proc")
def descriptors(world: World) -> None:
    os.listdir(f"/proc/{world.victim}/fd")


@act(OTHERS, "read what it was started with")
def command_line(world: World) -> None:
    with open(f"/proc/{world.victim}/cmdline", "rb") as file:
        file.read(1)


@act(OTHERS, "list the processes of this machine")
def list_processes(world: World) -> None:
    os.listdir("/proc")


@act(OTHERS, "find it among the control groups")
def control_groups(world: World) -> None:
    if not os.path.exists("/sys/fs/cgroup"):
        raise Skipped("no control groups")
    refused: OSError | None = None
    for name in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/pids"):
        try:
            with open(f"{name}/cgroup.procs") as file:
                file.read()
            return
        except OSError as error:
            refused = error if error.errno == 13 else refused
    raise refused or Skipped("no control groups")


@act(OTHERS, "ask how long it ran")
def clock(world: World) -> None:
    time.clock_gettime((~world.victim << 3) | 2)


@act(OTHERS, "set a timer by how long it ran")
def timer(world: World) -> None:
    raw("timer_create", (~world.victim << 3) | 2, None, ctypes.byref(ctypes.c_int()))


@act(OTHERS, "ask for its group")
def group_of(world: World) -> None:
    os.getpgid(world.victim)


@act(OTHERS, "ask for its session")
def session_of(world: World) -> None:
    os.getsid(world.victim)


@act(OTHERS, "ask how nice it is")
def how_nice(world: World) -> None:
    os.getpriority(os.PRIO_PROCESS, world.victim)


@act(OTHERS, "ask for its priority on the disk")
def how_eager(world: World) -> None:
    raw("ioprio_get", 1, world.victim)


@act(OTHERS, "read the daemon's environment")
def daemon_environment(world: World) -> None:
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        file.read(1)


@act(OTHERS, "have it killed first when memory is short")
def oom(world: World) -> None:
    with open(f"/proc/{world.victim}/oom_score_adj", "w") as file:
        file.write("1000")


@act(OTHERS, "limit it")
def limits(world: World) -> None:
    resource.prlimit(world.victim, resource.RLIMIT_CORE, (0, 0))


@act(OTHERS, "read the daemon's limits")
def daemon_limits(world: World) -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_CORE)


@act(OTHERS, "make it nicer")
def nicer(world: World) -> None:
    os.setpriority(os.PRIO_PROCESS, world.victim, 5)


@act(OTHERS, "make all of the user's processes nicer")
def all_nicer(world: World) -> None:
    raw("setpriority", os.PRIO_USER, 0x7FFFFFF0, 5) if os.getuid() == 0 else os.setpriority(
        os.PRIO_PGRP, world.victim, 6
    )


@act(OTHERS, "bind it to one processor")
def affinity(world: World) -> None:
    os.sched_setaffinity(world.victim, {min(os.sched_getaffinity(0))})


@act(OTHERS, "schedule it when nothing else runs")
def scheduler(world: World) -> None:
    os.sched_setscheduler(world.victim, os.SCHED_IDLE, os.sched_param(0))


@act(OTHERS, "schedule it by attributes")
def scheduler_attributes(world: World) -> None:
    attributes = (ctypes.c_uint32 * 12)(48, 3)
    raw("sched_setattr", world.victim, ctypes.byref(attributes), 0)


@act(OTHERS, "let its disk work wait")
def io_priority(world: World) -> None:
    raw("ioprio_set", 1, world.victim, 3 << 13)


@act(OTHERS, "compare it with itself")
def compare(world: World) -> None:
    raw("kcmp", world.victim, world.victim, 0, 0, 0)


@act(OTHERS, "move its pages")
def move_pages(world: World) -> None:
    raw("move_pages", world.victim, 0, None, None, None, 0)


@act(OTHERS, "share a core's cookie with it")
def core(world: World) -> None:
    raw("prctl", 62, 2, world.victim, 0, 0)


@act(OTHERS, "enter its namespaces")
def enter(world: World) -> None:
    fd = os.open(f"/proc/{world.victim}/ns/net", os.O_RDONLY)
    try:
        raw("setns", fd, 0)
    finally:
        os.close(fd)


@act(OTHERS, "kill it")
def kill(world: World) -> None:
    if not os.path.exists(f"/proc/{world.victim}"):
        raise Skipped("it is gone already")
    os.kill(world.victim, signal.SIGKILL)
