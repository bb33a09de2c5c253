"""A simulated macOS: its calls, and a reader of Seatbelt profiles that decides like the kernel: the last matching rule
wins, and a rule for an operation outranks one for its family, which outranks the default.
"""

import errno
import os
import re
import sys
from contextlib import contextmanager

from locara_sidecar.engine.sandbox import attempts, macos, seatbelt
from locara_sidecar.machine.macos.darwin import NOT_PRIVILEGED, Usage

_TOKEN = re.compile(r'\(|\)|"(?:[^"\\]|\\.)*"|[^\s()"]+')
HOMES = "/Users"
SERVED = ("/private/var/run/mDNSResponder", "/private/var/run/syslog")
"""Sockets that something serves on every Mac."""
XPC = "xpc:"
"""The prefix for the name of a service that is in a framework's bundle."""


class Profile:
    """The rules of a profile, for the filters that we write."""

    def __init__(self, text):
        self.rules = []
        for rule in _read(text):
            if rule[0] in {"allow", "deny"}:
                operations = [word for word in rule[1:] if isinstance(word, str)]
                self.rules.append((rule[0], operations, [word for word in rule[1:] if isinstance(word, list)]))

    def allows(self, operation, subject=""):
        """Return whether a process inside may perform ``operation`` on ``subject``: a path, a service's name or a
        number.
        """
        found = [
            (len(one) if one != "default" else -1, at, verdict == "allow")
            for at, (verdict, operations, filters) in enumerate(self.rules)
            for one in operations
            if _covers(one, operation) and (not filters or any(_matches(each, subject) for each in filters))
        ]
        return max(found)[2] if found else False


class PlayedMac:
    """:class:`~locara_sidecar.machine.macos.darwin.Darwin` without macOS.

    :param cache: the system's cache folder for the user; ``confined``: already in a sandbox at the start.
    """

    def __init__(self, cache, *, confined=False, suffixes=True):
        self.profile = None
        self.sent = []
        self._cache, self._confined, self._suffixes = str(cache), confined, suffixes

    def denies(self, operation, xpc=None):
        if operation is None:
            return self._confined or self.profile is not None
        if self._confined and self.profile is None:
            return operation in {"lsopen", "job-creation"} or xpc is not None
        return self.profile is not None and not self.profile.allows(operation, XPC + xpc if xpc else "")

    def look_up(self, service):
        if not (self._confined or (self.profile and not self.profile.allows("mach-lookup", service))):
            return 0
        return NOT_PRIVILEGED

    def link(self, source, target):
        self._copied("file-link", source, target)

    def clone(self, source, target):
        self._copied("file-clone", source, target)

    def _copied(self, operation, source, target):
        if self.profile is not None and not self.profile.allows(operation, source):
            raise PermissionError(errno.EPERM, operation)
        os.link(source, target)

    def set_user_dir_suffix(self, suffix):
        if not self._suffixes:
            raise OSError(errno.EINVAL, "not that")
        self._cache = os.path.join(self._cache, suffix)

    def user_cache_dir(self):
        return self._cache


@contextmanager
def on_a_mac(monkeypatch, mac, *, denied=(), writable=()):
    """Simulate a Mac within the block: ``sandbox_init`` makes a :class:`Profile`, which decides what attempts at files,
    sockets and signals find.

    :param denied: folders that the app's sandbox denies us, except that those in ``writable`` can be written to.
    """

    def load(text):
        if mac._confined:
            raise OSError(errno.EPERM, "sandbox_init")
        mac.profile = Profile(text)

    def of_path(operation):
        def tried(path):
            if mac._confined:
                kept = path in denied and (operation == "file-read-data" or path not in writable)
                return "blocked" if kept else "open"
            if mac.profile is None:
                return "open" if os.path.isdir(path) or path == HOMES else "unknown"
            return "open" if mac.profile.allows(operation, os.path.realpath(path)) else "blocked"

        return tried

    def of_network():
        return "open" if mac.profile is None and not mac._confined else "blocked"

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        patch.setattr(seatbelt, "load", load)
        patch.setattr(attempts, "read", of_path("file-read-data"))
        patch.setattr(attempts, "write", of_path("file-write-create"))
        for name in ("tcp", "udp", "signals"):
            patch.setattr(attempts, name, of_network)
        # at a path that does not exist the file system answers, before Seatbelt is asked
        patch.setattr(attempts, "local_sockets", lambda: "open")
        patch.setattr(macos, "_connect", lambda path, _kind: of_network() if path in SERVED else "open")
        patch.setattr(os, "environ", dict(os.environ))
        yield


class Identity:
    """What a Mac reports about itself, and when this process was started, in the Mac's own ticks."""

    def __init__(self, hardware, boot, started=7):
        self._hardware, self._boot, self._started = hardware, boot, started

    def machine(self):
        return self._hardware

    def text(self, name):
        assert name == "kern.bootsessionuuid"
        return self._boot

    def usage(self, _pid):
        return Usage(1, 1, self._started)


def _covers(rule, operation):
    return rule == "default" or rule == operation or (rule.endswith("*") and operation.startswith(rule[:-1]))


def _matches(one, subject):
    kind, *values = one
    if kind == "subpath":
        return any(subject == value or subject.startswith(value.rstrip("/") + "/") for value in values)
    if kind in {"literal", "global-name", "fcntl-command"}:
        return subject in values
    if kind == "global-name-prefix":
        return subject.startswith(tuple(values))
    if kind in {"xpc-service-name", "xpc-service-name-prefix"}:
        service = subject.removeprefix(XPC)
        named = service in values if kind == "xpc-service-name" else service.startswith(tuple(values))
        return subject.startswith(XPC) and named
    return kind == "target" and subject in values


def _read(text):
    stack = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] == '"' else token)
    return stack[0]
