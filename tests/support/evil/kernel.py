"""Acts on the kernel: its own interfaces, and other ways to make calls."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket

from support.evil import Skipped, World, act, numbered, raw, reached

KERNEL = "kernel"


@act(KERNEL, "mount")
def mount(world: World) -> None:
    reached("mount", b"none", b"/nonexistent", b"tmpfs", 0, None)


@act(KERNEL, "open a file system")
def file_system(world: World) -> None:
    reached("fsopen", b"nonexistent", 0)


@act(KERNEL, "clone a mount")
def tree(world: World) -> None:
    reached("open_tree", -1, b"/nonexistent", 1)


@act(KERNEL, "change the root folder")
def root(world: World) -> None:
    reached("chroot", b"/nonexistent")


@act(KERNEL, "handle others' page faults")
def faults(world: World) -> None:
    os.close(raw("userfaultfd", 1))


@act(KERNEL, "load a program into the kernel")
def bpf(world: World) -> None:
    reached("bpf", 0x7FFF, None, 0)


@act(KERNEL, "attach a program to a socket")
def socket_program(world: World) -> None:
    code = ctypes.create_string_buffer(bytes.fromhex("0600000000000000"))  # return 0
    program = (ctypes.c_uint16 * 8)(1)
    ctypes.memmove(ctypes.addressof(program) + 8, ctypes.byref(ctypes.c_void_p(ctypes.addressof(code))), 8)
    one, two = socket.socketpair()
    with one, two:
        raw("setsockopt", one.fileno(), socket.SOL_SOCKET, 26, ctypes.byref(program), 16)  # SO_ATTACH_FILTER


@act(KERNEL, "load a filter of its own calls")
def filter_program(world: World) -> None:
    reached("seccomp", 1, 0, None)  # SECCOMP_SET_MODE_FILTER


@act(KERNEL, "load one in the older way")
def older_filter(world: World) -> None:
    reached("prctl", 22, 2, None, 0, 0)  # PR_SET_SECCOMP


@act(KERNEL, "ask where another process keeps its locks")
def robust_list(world: World) -> None:
    there, size = ctypes.c_void_p(), ctypes.c_size_t()
    raw("get_robust_list", world.victim, ctypes.byref(there), ctypes.byref(size))


@act(KERNEL, "count events of the processor")
def perf(world: World) -> None:
    attributes = (ctypes.c_uint32 * 32)(1, 128)
    os.close(raw("perf_event_open", ctypes.byref(attributes), 0, -1, -1, 0))


@act(KERNEL, "load a module")
def module(world: World) -> None:
    reached("finit_module", -1, b"", 0)


@act(KERNEL, "load another kernel")
def kexec(world: World) -> None:
    reached("kexec_load", 0, 0, None, 0xFFFF)


@act(KERNEL, "restart the machine")
def reboot(world: World) -> None:
    reached("reboot", 0, 0, 0, None)


@act(KERNEL, "swap to a file")
def swap(world: World) -> None:
    reached("swapon", b"/nonexistent", 0)


@act(KERNEL, "account for processes")
def account(world: World) -> None:
    reached("acct", b"/nonexistent")


@act(KERNEL, "set the clock")
def clock(world: World) -> None:
    reached("clock_settime", 99, None)


@act(KERNEL, "read the kernel's log")
def log(world: World) -> None:
    reached("syslog", 10, None, 0)


@act(KERNEL, "rename the machine")
def hostname(world: World) -> None:
    reached("sethostname", b"", -1)


@act(KERNEL, "make all readable memory executable")
def personality(world: World) -> None:
    raw("personality", 0x0400000)


@act(KERNEL, "share a descriptor table entry of the kernel's choosing (secret memory)")
def secret_memory(world: World) -> None:
    os.close(raw("memfd_secret", 0))


@act(KERNEL, "make a call that is newer than the filter")
def newer(world: World) -> None:
    numbered(511)


@act(KERNEL, "make a call of the x32 interface")
def x32(world: World) -> None:
    if os.uname().machine != "x86_64":
        raise Skipped("no x32 on this machine")
    numbered(0x40000000 | 39)


@act(KERNEL, "make a 32-bit call")
def ia32(world: World) -> None:
    if not world.ia32:
        raise Skipped("this system runs none")
    thirty_two_bits()


def thirty_two_bits() -> None:
    """``getpid`` by ``int 0x80``; ends the process where the system does not run such calls."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000cd80c3"))
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if (result := call()) < 0:
        raise OSError(-result, os.strerror(-result))
