"""Seatbelt, macOS's sandbox: the text of the profile, and its loader. Written and loadable; NOT RUN by us so far.

Everything is allowed except files, the network and the help of other programs, because Metal and the frameworks below
it use many system services. Reading, writing, executing and connecting are denied and then allowed by path. In this
language the last matching rule for an operation wins; others found that a rule for a single operation takes precedence
over one for its family (``file-write-data``, ``file-write*``), whichever comes last, and no rule here depends on that.
So what Metal needs besides files has no rule: ``iokit-open`` (the GPU's user client).

Giving a file a second name and cloning it are operations of their own, which the rules for reading and writing do not
cover: with them, a file from elsewhere could be read in the scratch folder, and one of ours could be put anywhere. Two
requests (``fcntl``'s F_MAKECOMPRESSED and F_TRANSFEREXTENTS) change a file that is open for reading only.

Some services would do for the engine what it may not do itself: LaunchServices opens a URL in a browser; the system
downloads one in the background, or because a certificate names it; the pasteboard, Spotlight and the keychain contain
the user's data. They are denied by name. Services inside frameworks (XPC), among them WebKit's, which reaches the
network, are denied altogether, except the one that compiles Metal's kernels.

That Metal computes without them is known only from other people's profiles: a published program tests that MLX
computes inside one that denies by default and names MTLCompilerService, cvmsServ and the logger. (Chromium's profile
for its GPU process does allow launchservicesd and the keychain's daemon; it also draws windows.)
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import TYPE_CHECKING, Any

from locara_sidecar.machine.macos.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYSTEM = (
    *("/System", "/usr", "/bin", "/sbin", "/Library", "/Applications/Xcode.app", "/opt/homebrew", "/opt/local"),
    *("/private/etc", "/private/var/db", "/private/var/select"),
)
_OTHERS_DATA = ("/opt/homebrew/var", "/usr/local/var")
"""Where Homebrew's servers keep the user's databases, below folders that hold programs."""
DENIED_SERVICES = (
    *("com.apple.coreservices.launchservicesd", "com.apple.coreservices.appleevents", "com.apple.lsd.open"),
    *("com.apple.nsurlsessiond", "com.apple.dnssd.service", "com.apple.trustd", "com.apple.trustd.agent"),
    *("com.apple.secd", "com.apple.securityd.xpc", "com.apple.SecurityServer"),
)
DENIED_FAMILIES = ("com.apple.pasteboard.", "com.apple.nsurlsession", "com.apple.metadata.")
"""Prefixes of service names."""
_DENIED_PROGRAMS = ("/usr/bin/open", "/usr/bin/osascript", "/usr/bin/shortcuts", "/usr/bin/automator")
_COMPILERS = (
    ("xpc-service-name", "com.apple.MTLCompilerService"),
    ("xpc-service-name-prefix", "com.apple.AGXCompilerService"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper")
"""Not the whole of /dev: it contains the user's terminals, and whoever reads one gets what is typed there."""
_READ_ONLY_WRITES = (80, 110)
"""``F_MAKECOMPRESSED`` and ``F_TRANSFEREXTENTS`` of <sys/fcntl.h>."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
NEWER = (
    *("appleevent-send", "job-creation", "lsopen", "user-preference-write", "xpc-service-name"),
    *("file-link", "file-clone", "system-fcntl"),
)
"""Operations and filters that some versions of macOS may not know, and that a profile can do without.

One unknown word makes macOS reject a whole profile, and then nothing would be confined at all.
"""


def confine(writable: Iterable[str], installation: Iterable[str], readable: Iterable[str]) -> list[str]:
    """Confine this process with as much of the profile as this macOS knows.

    :return: the words of :data:`NEWER` that had to be left out.
    :raises OSError: if Seatbelt is not available, or rejects even the profile without these.
    """
    text, unknown = profile(writable, installation, readable), list[str]()
    while True:
        try:
            load(without(text, unknown))
        except OSError as error:
            left = [word for word in NEWER if word not in unknown]
            if not left:
                raise
            unknown += [word for word in left if word in str(error)] or left
        else:
            return unknown


def without(text: str, words: Iterable[str]) -> str:
    """Return a profile without the rules that have one of these words outside quotes."""
    words = list(words)
    rules = [line for line in text.splitlines() if not any(word in _STRING.sub("", line) for word in words)]
    return "\n".join(rules) + "\n"


def profile(writable: Iterable[str], installation: Iterable[str], readable: Iterable[str]) -> str:
    """Return the text of the profile, a rule a line. All paths are absolute.

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
        '(deny mach-lookup (xpc-service-name-prefix ""))',
        *(f"(allow mach-lookup ({kind} {_quoted(name)}))" for kind, name in _COMPILERS),
        "(deny signal)",
        "(allow signal (target same-sandbox))",
        "(deny file-write*)",
        *(f"(allow file-write* {_subpath(path)})" for path in own),
        *(f"(allow file-write-data file-ioctl (literal {_quoted(path)}))" for path in _DEVICES),
        "(deny file-link)",
        "(deny file-clone)",
        f"(deny system-fcntl (fcntl-command {' '.join(map(str, _READ_ONLY_WRITES))}))",
        # file names stay visible, as with Landlock: opening a path means walking it
        "(deny file-read-data)",
        '(allow file-read-data (literal "/"))',
        *(f"(allow file-read-data (literal {_quoted(path)}))" for path in _DEVICES),
        *(f"(allow file-read-data {_subpath(path)})" for path in run),
        *(f"(deny file-read-data {_subpath(path)})" for path in _OTHERS_DATA),
        *(f"(allow file-read-data {_subpath(path)})" for path in (*readable, *own)),
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
    library.sandbox_free_error.restype, library.sandbox_free_error.argtypes = None, (ctypes.c_char_p,)
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
