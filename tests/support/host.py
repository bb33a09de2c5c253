"""A host for tests: starts the real daemon, keeps its log, and checks that only protocol messages came out."""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

from locara_protocol.client import RemoteError, Sidecar

PROMPT = "a red circle on a blue background"


def manifest(*models, fs=None, modalities=("text-to-image",)):
    return {
        "schema": "locara/v1",
        "name": "studio",
        "publisher": "example",
        "version": "1.2.3",
        "modalities": list(modalities),
        "capabilities": {
            "models": list(models or ("pocket",)),
            "fs": fs or {"user-folder": "read-write"},
        },
    }


def command(*flags):
    return [sys.executable, "-m", "locara_sidecar", "serve", *flags]


class Host(Sidecar):
    """A client with a folder of its own and a few shortcuts."""

    def __init__(self, folder: Path, *flags, env=None):
        self.folder = folder
        self.log_file = folder.parent / f"{folder.name}.log"
        self._log = self.log_file.open("wb")
        self.lines = []
        super().__init__(
            command(*flags), env=env, stderr=self._log, record=lambda way, line: self.lines.append((way, line))
        )

    def open(self, *models, **extra):
        return self.initialize(manifest=manifest(*models), grants={"user-folder": str(self.folder)}, **extra)

    def generate(self, prompt=PROMPT, **options):
        return self.call("image.generate", {"prompt": prompt, "options": options}, timeout=50)

    def begin(self, prompt=PROMPT, **options):
        return self.start("image.generate", {"prompt": prompt, "options": options}, stream=True)

    def log(self):
        return self.log_file.read_text()

    def files(self):
        """Return every entry below the folder, including hidden and temporary ones."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))

    def open_files(self):
        """Return the path of each descriptor of the daemon that is a file below the folder. On Linux only."""
        targets = []
        for descriptor in os.scandir(f"/proc/{self.process.pid}/fd"):
            try:
                targets.append(os.readlink(descriptor.path))
            except FileNotFoundError:  # closed since
                continue
        return [target for target in targets if target.startswith(f"{self.folder}/")]

    def check(self):
        """Fail if the daemon has violated the contract since the last call."""
        found = self.violations[:]
        self.violations.clear()
        assert not found, found

    def close(self, timeout=5.0):
        status = super().close(timeout)
        self._log.close()
        return status


class Hosts:
    """Create hosts in folders below ``root``."""

    def __init__(self, root: Path):
        self._root = root
        self._made = []

    def spawn(self, *flags, engine="fake", folder=None, env=None):
        """Start a daemon, without initialising it."""
        if folder is None:
            folder = self._root / f"pictures{len(self._made)}"
            folder.mkdir()
        host = Host(folder, "--engine", engine, *flags, env=env)
        self._made.append(host)
        return host

    def session(self, *flags, models=("pocket",), engine="fake", folder=None, env=None):
        """Start and initialise a daemon that may draw with ``models`` and save in its folder."""
        host = self.spawn(*flags, engine=engine, folder=folder, env=env)
        host.open(*models)
        return host

    def close(self):
        for host in self._made:
            host.close()
            host.check()


def eventually(true, seconds=10):
    """Return a condition's value once it is true, or when the time is up."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def error_of(call, timeout=30):
    """Return the error that a call ends with."""
    try:
        result = call.result(timeout)
    except RemoteError as error:
        return error
    raise AssertionError(f"expected an error, got {result}")


def until(call, phase, step=0):
    """Read a call's messages until it reaches a phase (and step); return that message."""
    for message in call.messages():
        if message["phase"] == phase and message["step"] >= step:
            return message
    raise AssertionError(f"the call ended before {phase} {step}")


def decoded(image):
    """Return the bytes of a picture in a result: inline data, or the saved file."""
    return base64.b64decode(image["data"]) if "data" in image else Path(image["path"]).read_bytes()
