"""A daemon in which one file-system call hangs, as on a lost network share or while macOS asks the user."""

import os
import sys
import time

from locara_protocol.client import Sidecar
from support.host import Host

_START = """
import os, sys
from locara_sidecar.capability.files import system
held, gate = sys.argv[1].split(","), sys.argv[2]
def tell(what, name):
    with open(f"{gate}.{what}", "a") as told:
        told.write(name + "\\n")
def holding(name, real):
    def call(self, *given):
        if os.path.exists(gate):
            tell("reached", name)
            try:
                opened = open(gate)  # a FIFO that nobody writes to yet
            except FileNotFoundError:  # let go just now
                opened = None
            tell("past", name)
            if opened:
                opened.read()
        return real(self, *given)
    return call
for name in held:
    setattr(system.System, name, holding(name, getattr(system.System, name)))
sys.argv[1:] = sys.argv[3:]
from locara_sidecar.__main__ import main
raise SystemExit(main())
"""


class HeldHost(Host):
    """A host whose sidecar hangs in calls of :class:`~locara_sidecar.capability.files.system.System` named ``held``.

    The files of ``folder`` are granted; nothing hangs before :meth:`hold`.
    """

    def __init__(self, folder, *held):
        self.folder = folder
        self.log_file = folder.parent / f"{folder.name}.log"
        self._log = self.log_file.open("wb")
        self.lines = []
        self.gate = folder.parent / f"{folder.name}.gate"
        command = [sys.executable, "-c", _START, ",".join(held), str(self.gate), "serve", "--engine", "fake"]
        Sidecar.__init__(self, command, stderr=self._log)

    def hold(self):
        """Make those calls hang from now on."""
        os.mkfifo(self.gate)

    def wait_until_held(self, count=1):
        """Wait until ``count`` calls hang."""
        self._wait(lambda: self._told("reached") >= count)

    def let_go(self):
        """Let the hanging calls continue; no further call hangs."""
        writer = os.open(self.gate, os.O_RDWR)  # does not wait for a reader
        self.gate.unlink()
        # Not closed before they have it open, or they would wait for another writer.
        self._wait(lambda: self.process.poll() is not None or self._told("past") == self._told("reached"))
        os.close(writer)

    def _told(self, what):
        file = self.gate.with_name(f"{self.gate.name}.{what}")
        return len(file.read_text().splitlines()) if file.exists() else 0

    def _wait(self, holds):
        until = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < until, "the call was never made, or never goes on"
            time.sleep(0.01)
