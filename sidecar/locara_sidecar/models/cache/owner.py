"""Names for the owners of cache files, from which others can tell, without locks, whether the process still runs.

Locks do not work everywhere: on some network file systems ``flock`` fails, on others it always succeeds or is seen on
one machine only. So whatever a process is working on in the cache carries the process's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import sys
from typing import Literal

State = Literal["alive", "ended", "neighbour", "stranger"]
"""``neighbour``: on this running system, but in another container, whose processes are not visible from here;
``stranger``: on another machine, or nothing is known.
"""

_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)")
_places: list[tuple[str, str, str]] = []
_UNKNOWN_START = 0


def name() -> str:
    """Return this process's name: machine, boot id, pid namespace, pid, start time."""
    pid = os.getpid()
    return "-".join((*_place(), str(pid), str(_start(pid) or _UNKNOWN_START)))


def state(owner: str) -> State:
    """Return the state of the process with that name.

    ``ended`` is certain. A stranger, or an invalid name, may be alive.
    """
    match = _NAME.fullmatch(owner)
    if match is None:
        return "stranger"
    machine, run, space = _place()
    if match[1] != machine:
        return "stranger" if match[2] != run else "neighbour"
    if match[2] != run:
        return "ended"  # this machine, before its last boot
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
    """Return machine, boot id and namespace, as far as the system knows them; an unknown one is made up, so that no
    foreign process is ever mistaken for one that should be visible here.
    """
    if not _places:
        made_up = secrets.token_hex(16)
        machine, run = _mac() if sys.platform == "darwin" else _linux()
        space = "" if sys.platform == "linux" else "one"
        with contextlib.suppress(OSError):
            space = os.readlink("/proc/self/ns/pid")
        known = (machine if run else "", run, space)  # without a boot id, nobody could say that a process has ended
        _places.append((_short(known[0] or made_up), _short(known[1] or made_up), _short(known[2] or made_up)))
    return _places[0]


def _linux() -> tuple[str, str]:
    """Return machine and boot id. Containers and cloned machines may share the id in /etc, but not the host name."""
    machine = _text("/etc/machine-id") or _text("/var/lib/dbus/machine-id")
    named = f"{machine} {socket.gethostname()}" if machine else ""
    return named, _text("/proc/sys/kernel/random/boot_id")


def _mac() -> tuple[str, str]:
    """Return machine and boot id; without the host name, which changes with each network that a Mac joins."""
    from locara_sidecar.machine.macos.darwin import Darwin

    mac = Darwin()
    with contextlib.suppress(OSError):
        return mac.machine(), mac.text("kern.bootsessionuuid")
    return "", ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 would end the process there
        import psutil

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _start(pid: int) -> int | None:
    """Return when a process was started, in the system's own units; 0 if unknown, None for one that has ended but has
    not been reaped.
    """
    if os.path.exists("/proc/self/stat"):  # Linux
        # the fields after the command's name, which is in parentheses and may contain anything
        fields = _bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields[:1] in ([b"Z"], [b"X"]):
            return None
        return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else _UNKNOWN_START
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == "darwin":  # psutil's figure follows the time of day, which may be set while we run
            from locara_sidecar.machine.macos.darwin import Darwin

            return Darwin().usage(pid).started
        return int(process.create_time())
    except (psutil.Error, OSError):
        return _UNKNOWN_START


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""
