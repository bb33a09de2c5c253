"""A Tauri app as installed on Linux: with a sidecar among its resources, a separate home and a real window."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from support.webdriver import Browser, until

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The program of the sidecar; make says which one.
SIDECAR = Path(os.environ.get("LOCARA_SIDECAR", "/nonexistent"))
#: What the app's environment keeps of this one.
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH")


class App:
    """Installs a built program in a new home, with its manifest, and starts it on a display."""

    def __init__(self, home: Path, screen: str, built: Path, manifest: Mapping[str, object]) -> None:
        self.screen = screen
        self.home = home
        self.pictures = home / "Pictures" / built.name
        program = home / "usr/bin" / built.name
        resources = home / "usr/lib" / built.name
        program.parent.mkdir(parents=True)
        (resources / "locara-sidecar").mkdir(parents=True)
        try:
            program.hardlink_to(built)
        except OSError:
            shutil.copy2(built, program)
        (resources / "locara.json").write_text(json.dumps(manifest))
        _script(resources / "locara-sidecar/locara-sidecar", f'exec "{SIDECAR}" "$@" --cache-dir "{home}/cache"')
        self.opened = home / "opened"  # the address of the last page that it had the user's browser open
        (home / "bin").mkdir()
        _script(home / "bin/xdg-open", f'echo "$1" > "{self.opened}.new"; mv "{self.opened}.new" "{self.opened}"')
        settings = home / ".config/gtk-3.0/settings.ini"  # what moves while an engine starts takes a core of it here
        settings.parent.mkdir(parents=True)
        settings.write_text("[Settings]\ngtk-enable-animations=0\n")
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env["PATH"] = f"{home}/bin{os.pathsep}{env['PATH']}"
        env |= {"HOME": str(home), "DISPLAY": screen, "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
        self.page = Browser(program, free_port(), env | {"LIBGL_ALWAYS_SOFTWARE": "1"})
        until("the app runs", lambda: self._found(program))

    def _found(self, program: Path) -> bool:
        self.process = next((one for one in psutil.process_iter() if _program(one) == program), None)
        return self.process is not None

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the app, the web view, the sidecar and its engine; none once the app has ended."""
        assert self.process is not None
        return [self.process, *self.process.children(recursive=True)] if runs(self.process) else []

    def close(self) -> None:
        """End the app, because the driver leaves it running."""
        processes = self.processes()
        self.page.close()
        if processes:
            processes[0].terminate()
        for one in psutil.wait_procs(processes, timeout=10)[1]:
            one.kill()

    def sidecars(self) -> list[psutil.Process]:
        """Return the processes of the sidecar and its engine."""
        return [one for one in self.processes() if "locara_sidecar" in line(one) or str(SIDECAR) in line(one)]


def _script(file: Path, line: str) -> None:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)


def runs(process: psutil.Process) -> bool:
    """Return whether a process is still running."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _program(process: psutil.Process) -> Path | None:
    try:
        return Path(process.exe())
    except psutil.Error:
        return None


def line(process: psutil.Process) -> str:
    """Return a process's command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
