"""Acts on what all processes of a user or of the machine must share: whoever takes everything starves the rest."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import threading

from support.evil import World, act, raw

RESOURCES = "resources"
_MANY = 5000


@act(RESOURCES, "open 5,000 descriptors")
def descriptors(world: World) -> None:
    held: list[int] = []
    try:
        held.extend(os.dup(0) for _ in range(_MANY))
    finally:
        for fd in held:
            os.close(fd)


@act(RESOURCES, "leave a descriptor on its way to nobody")
def in_flight(world: World) -> None:
    one, two = socket.socketpair()
    with one, two:
        socket.send_fds(one, [b"x"], [0])


@act(RESOURCES, "the same by the call for many messages")
def many_in_flight(world: World) -> None:
    one, two = socket.socketpair()
    with one, two:
        raw("sendmmsg", one.fileno(), None, 0, 0)


@act(RESOURCES, "take the machine's asynchronous input and output")
def asynchronous(world: World) -> None:
    context = ctypes.c_ulong()
    raw("io_setup", 64, ctypes.byref(context))
    raw("io_destroy", context.value)


@act(RESOURCES, "queue 5,000 signals to itself")
def signals(world: World) -> None:
    number = signal.SIGRTMIN + 5
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    info = (ctypes.c_int32 * 32)(number, 0, -1)  # SI_QUEUE
    try:
        for _ in range(_MANY):
            raw("rt_tgsigqueueinfo", os.getpid(), threading.get_native_id(), number, ctypes.byref(info))
    finally:
        while signal.sigtimedwait({number}, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@act(RESOURCES, "make pipes as large as they get")
def large_pipes(world: World) -> None:
    ends = os.pipe()
    try:
        fcntl.fcntl(ends[1], 1031, 1 << 20)  # F_SETPIPE_SZ
    finally:
        for end in ends:
            os.close(end)


@act(RESOURCES, "run before everything else (real time)")
def real_time(world: World) -> None:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@act(RESOURCES, "be less nice than it was")
def less_nice(world: World) -> None:
    was = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    os.setpriority(os.PRIO_PROCESS, 0, was)
