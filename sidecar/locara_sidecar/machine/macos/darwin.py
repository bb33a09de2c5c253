"""macOS calls that Python does not expose, in one table, so that a test can simulate them on any system.

NOT RUN by us so far: names, numbers and layouts are those of Apple's published headers and sources, cited at each (xnu
11417, Libc 1725). Every method is one call and makes no decision; OSError means that this system does not have it or
that it failed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Any, NamedTuple

USER_CACHE_DIR = 65538
"""``_CS_DARWIN_USER_CACHE_DIR`` of <unistd.h>: the user's cache folder below /var/folders."""

_FILTER_NONE, _FILTER_XPC = 0, 12
"""``SANDBOX_FILTER_NONE`` and ``…_XPC_SERVICE_NAME``, as WebKit declares them (wtf/spi/darwin/SandboxSPI.h)."""

_O_EVTONLY, _F_GETPATH, _MAXPATHLEN = 0x8000, 50, 1024
_UTF8 = 0x08000100
"""``kCFStringEncodingUTF8``."""
_ASSERTION_ON = 255
"""``kIOPMAssertionLevelOn``."""
_RUSAGE_INFO_V4 = 4
_RUSAGE = struct.Struct("=16x35Q")
"""``struct rusage_info_v4`` of <sys/resource.h>: a UUID and 35 64-bit integers."""
_PHYS_FOOTPRINT, _START_ABSTIME, _LIFETIME_MAX_PHYS_FOOTPRINT = 7, 8, 28

NOT_PRIVILEGED = 1100
"""``BOOTSTRAP_NOT_PRIVILEGED`` of <servers/bootstrap.h>; 1102 is an unknown service."""


class Usage(NamedTuple):
    """What the kernel counts of a process.

    :param footprint: its memory now, in bytes, with what Metal allocated and what was compressed.
    :param peak: the largest footprint so far.
    :param started: when it started, in ticks of a clock that no change of the time of day moves.
    """

    footprint: int
    peak: int
    started: int


def usage_of(rusage: bytes) -> Usage:
    """Read a ``struct rusage_info_v4``."""
    numbers = _RUSAGE.unpack(rusage)
    return Usage(numbers[_PHYS_FOOTPRINT], numbers[_LIFETIME_MAX_PHYS_FOOTPRINT], numbers[_START_ABSTIME])


class Darwin:
    """The real calls; a test substitutes an object with the same methods."""

    def denies(self, operation: str | None, xpc: str | None = None) -> bool:
        """Whether this process's sandbox forbids an operation; with None, whether there is a sandbox at all.

        Asks the kernel without trying anything.

        :param xpc: a service in a framework's bundle, which the operation is about.
        :raises OSError: if it cannot be asked.
        """
        check = _library("sandbox_check")
        # the first three are declared, the rest is variadic: on arm64 such arguments are passed differently
        check.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        kind = _FILTER_NONE if xpc is None else _FILTER_XPC
        more = () if xpc is None else (ctypes.c_char_p(xpc.encode()),)
        answer = check(os.getpid(), None if operation is None else operation.encode(), kind, *more)
        if answer < 0:
            raise OSError(ctypes.get_errno(), "sandbox_check")
        return bool(answer)

    def look_up(self, service: str) -> int:
        """Look up a service of the user's session in launchd without sending anything; return 0 on success,
        else the error.
        """
        function = _library("bootstrap_look_up")
        function.argtypes = (ctypes.c_uint, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint))
        session = ctypes.c_uint.in_dll(_libc(), "bootstrap_port")
        port = ctypes.c_uint(0)
        return int(function(session, service.encode(), ctypes.byref(port)))

    def set_user_dir_suffix(self, suffix: str) -> None:
        """Give this process its own cache and temporary folders below the user's.

        WebKit's processes and Apple's daemons do this before they confine themselves; true means success. It is in
        libSystem, but not in the published part of it.
        """
        function = _library("_set_user_dir_suffix")
        function.restype, function.argtypes = ctypes.c_bool, (ctypes.c_char_p,)
        if not function(suffix.encode()):
            raise OSError(ctypes.get_errno() or errno.EINVAL, "_set_user_dir_suffix")

    def user_cache_dir(self) -> str:
        """Return the folder in which frameworks, among them Metal, cache what they compiled; the system creates
        it if needed.
        """
        assert sys.platform != "win32"
        return os.confstr(USER_CACHE_DIR) or ""  # pyright: ignore[reportArgumentType]  (numbers are taken, too)

    def real_path(self, path: str) -> str:
        """Return a file's path as the file system spells it: ``F_GETPATH`` of <sys/fcntl.h>, on a descriptor opened
        with ``O_EVTONLY``.

        :raises OSError: if there is no such file, or its path cannot be determined.
        """
        assert sys.platform != "win32"
        import fcntl

        fd = os.open(path, _O_EVTONLY | os.O_CLOEXEC)
        try:
            found = fcntl.fcntl(fd, _F_GETPATH, bytes(_MAXPATHLEN))
        finally:
            os.close(fd)
        return os.fsdecode(found.partition(b"\0")[0])

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def clone(self, source: str, target: str) -> None:
        """Make a copy that shares the bytes (<sys/clonefile.h>): APFS only, and ``target`` must not exist."""
        function = _library("clonefile")
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint32)
        if function(os.fsencode(source), os.fsencode(target), 0) != 0:
            raise OSError(ctypes.get_errno(), "clonefile")

    def usage(self, pid: int) -> Usage:
        """Return what the kernel counts of a process of the same user, even of one that was not reaped yet:
        ``proc_pid_rusage`` of <libproc.h>.

        :raises OSError: if there is no such process, or it is not ours to ask about.
        """
        buffer = ctypes.create_string_buffer(_RUSAGE.size)
        if _library("proc_pid_rusage")(pid, _RUSAGE_INFO_V4, buffer) != 0:
            raise OSError(ctypes.get_errno() or errno.ESRCH, "proc_pid_rusage")
        return usage_of(buffer.raw)

    def machine(self) -> str:
        """Return this Mac's hardware UUID (``gethostuuid`` of <unistd.h>); ``kern.uuid`` is the kernel's, which all
        Macs with one build of macOS share."""
        uuid, none = ctypes.create_string_buffer(16), (ctypes.c_long * 2)(0, 0)  # struct timespec
        if _library("gethostuuid")(uuid, none) != 0:
            raise OSError(ctypes.get_errno(), "gethostuuid")
        return uuid.raw.hex()

    def text(self, name: str) -> str:
        """Return a string value from ``sysctl``.

        :raises OSError: if there is none with this name.
        """
        value = ctypes.create_string_buffer(256)
        _sysctl(name, value, len(value))
        return value.value.decode(errors="replace")

    def number(self, name: str) -> int:
        """Return a 32- or 64-bit integer from ``sysctl``.

        :raises OSError: if there is none with this name.
        """
        value = ctypes.c_int64(0)  # a 32-bit one fills the lower half
        _sysctl(name, ctypes.byref(value), 8)
        return value.value

    def keep_awake(self, reason: str) -> int:
        """Create an assertion that the machine is in use (<IOKit/pwr_mgt/IOPMLib.h>); return the token for
        :meth:`let_sleep`.

        :raises OSError: if it is refused.
        """
        foundation, power = _framework("CoreFoundation"), _framework("IOKit")
        make, release = foundation.CFStringCreateWithCString, foundation.CFRelease
        make.restype, make.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
        release.restype, release.argtypes = None, (ctypes.c_void_p,)
        kind = make(None, b"PreventUserIdleSystemSleep", _UTF8)
        name = make(None, reason.encode(), _UTF8)
        token = ctypes.c_uint32(0)
        create = power.IOPMAssertionCreateWithName
        create.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32))
        try:
            status = create(kind, _ASSERTION_ON, name, ctypes.byref(token))
        finally:
            for text in (kind, name):
                if text:
                    release(text)
        if status != 0:
            raise OSError(errno.EPERM, f"IOPMAssertionCreateWithName: {status}")
        return token.value

    def power(self) -> tuple[bool, int]:
        """Return whether Low Power Mode is on, and ``NSProcessInfoThermalState`` (<Foundation/NSProcessInfo.h>).

        :raises OSError: if Foundation does not have them (before macOS 12).
        """
        _framework("Foundation")
        objc = _objc()
        class_of, selector = objc.objc_getClass, objc.sel_registerName
        class_of.restype, class_of.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
        selector.restype, selector.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
        address = ctypes.cast(objc.objc_msgSend, ctypes.c_void_p).value
        if not address or not (kind := class_of(b"NSProcessInfo")):
            raise OSError(errno.ENOSYS, "NSProcessInfo")
        # sending a message means calling a function with the method's exact type, never a variadic one
        identity = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
        answers = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
        truth = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)(address)
        number = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)(address)
        info = identity(kind, selector(b"processInfo"))
        low, state = selector(b"isLowPowerModeEnabled"), selector(b"thermalState")
        if not info or not all(answers(info, selector(b"respondsToSelector:"), one) for one in (low, state)):
            raise OSError(errno.ENOSYS, "isLowPowerModeEnabled")
        return truth(info, low), number(info, state)

    def let_sleep(self, token: int) -> None:
        """Release an assertion."""
        _framework("IOKit").IOPMAssertionRelease(ctypes.c_uint32(token))


def _framework(name: str) -> Any:
    if sys.platform != "darwin":
        raise OSError(errno.ENOSYS, "macOS only")
    return ctypes.CDLL(f"/System/Library/Frameworks/{name}.framework/{name}")


def _objc() -> Any:
    if sys.platform != "darwin":
        raise OSError(errno.ENOSYS, "macOS only")
    return ctypes.CDLL("/usr/lib/libobjc.A.dylib")


def _libc() -> Any:
    if sys.platform != "darwin":
        raise OSError(errno.ENOSYS, "macOS only")
    return ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True)


def _library(name: str) -> Any:
    """Return a function of the system's library.

    :raises OSError: if it is missing.
    """
    try:
        return getattr(_libc(), name)
    except AttributeError:
        raise OSError(errno.ENOSYS, name) from None


def _sysctl(name: str, value: Any, room: int) -> None:
    """Read a value of that many bytes into ``value`` (<sys/sysctl.h>)."""
    size = ctypes.c_size_t(room)
    if _library("sysctlbyname")(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        raise OSError(ctypes.get_errno(), name)
