"""Seatbelt, macOS's sandbox: the text of the profile, and its loader. Written and loadable; NOT RUN by us so far.

Everything is allowed except files, the network and the help of other programs, because Metal and the frameworks below
it use many system services. Reading, writing, executing and connecting are denied and then allowed by path. In this
language the last matching rule wins.
So what Metal needs besides files has no rule of its own: ``iokit-open`` (the GPU's user client) and looking up the
service that compiles kernels.

Some services would do for the engine what it may not do itself: LaunchServices opens an address in a browser, the
system downloads one in the background, the pasteboard and Spotlight expose the user's data. They are denied by name.
The services that Metal needs are known from published profiles (Chromium's for its GPU process, Firefox's, WebKit's);
those allow none of the denied ones for graphics.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

from locara_sidecar.machine.macos.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYSTEM = (
    *("/System", "/usr", "/bin", "/sbin", "/Library", "/Applications/Xcode.app", "/opt/homebrew", "/opt/local"),
    *("/private/etc", "/private/var/db", "/private/var/select", "/dev"),
)
DENIED_SERVICES = (
    *("com.apple.coreservices.launchservicesd", "com.apple.coreservices.appleevents"),
    *("com.apple.nsurlsessiond", "com.apple.dnssd.service", "com.apple.secd", "com.apple.securityd.xpc"),
)
DENIED_FAMILIES = ("com.apple.pasteboard.", "com.apple.nsurlsession", "com.apple.metadata.")
"""Prefixes of service names."""
_DENIED_PROGRAMS = ("/usr/bin/open", "/usr/bin/osascript", "/usr/bin/shortcuts", "/usr/bin/automator")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper")


def profile(writable: Iterable[str], installation: Iterable[str], readable: Iterable[str]) -> str:
    """Return the text of the profile. All paths are absolute.

    :param writable: paths to read and write.
    :param installation: paths to read and execute.
    :param readable: paths to read.
    """
    run, own = [*_SYSTEM, *installation], list(writable)
    lines = [
        "(version 1)",
        "(allow default)",
        "(deny network*)",
        "(deny appleevent-send)",
        "(deny job-creation)",
        "(deny lsopen)",
        "(deny user-preference-write)",
        *(f"(deny mach-lookup (global-name {_quoted(name)}))" for name in DENIED_SERVICES),
        *(f"(deny mach-lookup (global-name-prefix {_quoted(name)}))" for name in DENIED_FAMILIES),
        "(deny signal)",
        "(allow signal (target same-sandbox))",
        "(deny file-write*)",
        *(f"(allow file-write* {_subpath(path)})" for path in own),
        *(f"(allow file-write-data file-ioctl (literal {_quoted(path)}))" for path in _DEVICES),
        # file names stay visible, as with Landlock: opening a path means walking it
        "(deny file-read-data)",
        '(allow file-read-data (literal "/"))',
        *(f"(allow file-read-data {_subpath(path)})" for path in (*run, *readable, *own)),
        "(deny process-exec*)",
        *(f"(allow process-exec* {_subpath(path)})" for path in run),
        *(f"(deny process-exec* (literal {_quoted(path)}))" for path in _DENIED_PROGRAMS),
    ]
    return "\n".join(lines) + "\n"


def load(text: str) -> None:
    """Confine this process and its children, irrevocably.

    :raises OSError: if Seatbelt is not available or rejects the profile.
    """
    if sys.platform != "darwin":
        raise OSError("Seatbelt is macOS only")
    library: Any = ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True)
    message = ctypes.c_char_p()
    library.sandbox_init.argtypes = (ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_char_p))
    if library.sandbox_init(text.encode(), 0, ctypes.byref(message)) != 0:
        why = (message.value or b"no reason given").decode(errors="replace")
        library.sandbox_free_error(message)
        raise OSError(f"sandbox_init: {why}")


def _subpath(path: str) -> str:
    # the kernel compares real paths: /tmp and /var are links, and letter case is as stored in the file system
    return f"(subpath {_quoted(spelt(path))})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in escaped):
        raise OSError("a path with control characters cannot be written into a profile")
    return f'"{escaped}"'
