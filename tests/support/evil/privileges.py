"""Acts on what a process may do: capabilities, namespaces, users, and last, becoming another program.

Those that would change this process for the acts after them come last.
"""

from __future__ import annotations

import ctypes
import os

from support.evil import Skipped, World, act, raw, reached

PRIVILEGES = "privileges"


@act(PRIVILEGES, "make a thread in a namespace")
def thread_namespace(world: World) -> None:
    reached("clone", 0x10000800, None, None, None, 0)


@act(PRIVILEGES, "keep one's user, by the call that changes it")
def same_user(world: World) -> None:
    raw("setresuid", -1, -1, -1)


@act(PRIVILEGES, "join a group")
def groups(world: World) -> None:
    raw("setgroups", 1, ctypes.byref(ctypes.c_int(0)))


@act(PRIVILEGES, "take a capability")
def capability(world: World) -> None:
    header, wanted = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(0x200000, 0x200000, 0, 0, 0, 0)
    raw("capset", ctypes.byref(header), ctypes.byref(wanted))


@act(PRIVILEGES, "have any capability")
def capable(world: World) -> None:
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capget(ctypes.byref(header), ctypes.byref(held))
    if not any(held):
        raise PermissionError(1, "none")


@act(PRIVILEGES, "be allowed new privileges")
def new_privileges(world: World) -> None:
    if raw("prctl", 39, 0, 0, 0, 0) == 1:
        raise PermissionError(1, "none")


@act(PRIVILEGES, "use a file of another user's, as root may")
def override(world: World) -> None:
    if os.getuid() != 0:
        raise Skipped("an ordinary user never could")
    with open("/proc/1/environ", "rb") as file:
        file.read(1)


@act(PRIVILEGES, "make a user namespace")
def user_namespace(world: World) -> None:
    raw("unshare", 0x10000000)


@act(PRIVILEGES, "make a mount namespace")
def mount_namespace(world: World) -> None:
    raw("unshare", 0x00020000)


@act(PRIVILEGES, "become another user")
def user(world: World) -> None:
    raw("setresuid", 12345, 12345, 12345)


@act(PRIVILEGES, "become another program")
def become(world: World) -> None:
    """Run last: if it succeeds, this process becomes another program."""
    argv = (ctypes.c_char_p * 2)(b"true", None)
    raw("execve", b"/bin/true", argv, None)
