"""Who made a file of the cache, and whether that process still runs: a name that says so without any lock.

Locks are not to be had everywhere: on some network file systems ``flock`` fails, on others it always succeeds or is
heard on one machine only. What a process has in its hands in the cache therefore carries the process's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import secrets
import socket
import sys
from typing import Literal

State = Literal["alive", "ended", "neighbour", "stranger"]
"""``neighbour``: of this running system but of another container, whose processes cannot be seen from here;
``stranger``: of another machine, or nothing is known."""

_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)")
_places: list[tuple[str, str, str]] = []
_UNKNOWN_START = 0


def name() -> str:
    """This process's name: machine, its run since it was started, the processes' namespace, process, its start."""
    pid = os.getpid()
    return "-".join((*_place(), str(pid), str(_start(pid) or _UNKNOWN_START)))


def state(owner: str) -> State:
    """What has become of the process that called itself so.

    ``ended`` is certain. A stranger, or a name that is none, may be alive.
    """
    match = _NAME.fullmatch(owner)
    if match is None:
        return "stranger"
    machine, run, space = _place()
    if match[1] != machine:
        return "stranger" if match[2] != run else "neighbour"
    if match[2] != run:
        return "ended"  # this machine, before it was started anew
    if match[3] != space:
        return "neighbour"
    pid, start = int(match[4]), int(match[5])
    if not _exists(pid):
        return "ended"
    now = _start(pid)
    if now is None:
        return "ended"
    return "ended" if _UNKNOWN_START not in (start, now) and start != now else "alive"


def _place() -> tuple[str, str, str]:
    """Machine, run and namespace, as far as the system tells; what it does not tell is made up, so that nobody else's
    process is ever taken for one that must be visible here."""
    if not _places:
        made_up = secrets.token_hex(16)
        machine = _text("/etc/machine-id") or _text("/var/lib/dbus/machine-id") or _sysctl("kern.uuid")
        run = _text("/proc/sys/kernel/random/boot_id") or _sysctl("kern.bootsessionuuid")
        space = "" if sys.platform == "linux" else "one"
        with contextlib.suppress(OSError):
            space = os.readlink("/proc/self/ns/pid")
        named = f"{machine} {socket.gethostname()}" if machine else ""
        known = (named if run else "", run, space)  # without a run "ended" could not be told
        _places.append((_short(known[0] or made_up), _short(known[1] or made_up), _short(known[2] or made_up)))
    return _places[0]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _sysctl(what: str) -> str:
    """A string that macOS tells about itself."""
    if sys.platform != "darwin":
        return ""
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).sysctlbyname
        if function(what.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return value.value.decode(errors="replace")
    return ""


def _exists(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is one that ends the process
        import psutil

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _start(pid: int) -> int | None:
    """When a process was started, in the system's own count; 0 where that cannot be told, None for one that has ended
    and that nobody has asked after yet."""
    if os.path.exists("/proc/self/stat"):  # Linux
        # after the command's name, which is in brackets and may hold anything
        fields = _bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields[:1] in ([b"Z"], [b"X"]):
            return None
        return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else _UNKNOWN_START
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except (psutil.Error, OSError):
        return _UNKNOWN_START


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""
