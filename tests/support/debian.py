"""A minimal Debian without Python, made by debootstrap, and a user's actions there in the window of the example app."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support import clean_room
from support.installed_app import line
from support.webdriver import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.webdriver import Browser

PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
HOME = "home/someone"
NOBODY = 65534
SUN = "a smiling sun on a purple background"
STATUS = ".locara-status-words"

#: Tests of a package that was built: they take minutes, and root.
MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="another root folder with its own Debian takes root on Debian",
    ),
]


class Debian:
    """Its root folder. Each command has its own ``/tmp``, which is removed afterwards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self, *words: str, user: int = 0, env: Mapping[str, str] = PLAIN, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as a user."""
        start = clean_room.command(self.root, None, "", *words, user=user)
        return subprocess.run(start, env=env, capture_output=True, text=True, timeout=seconds, check=False)

    def install(self, *packages: str) -> None:
        """Have apt install packages, or package files, with their dependencies."""
        done = self.run("/usr/bin/env", "apt-get", "install", "-y", "--no-install-recommends", *packages)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def pythons(self) -> list[str]:
        """Return programs and libraries of any Python in it, except those in the app."""
        found: list[str] = []
        for folder in ("usr/bin", "usr/local/bin", "usr/lib", "opt"):
            for where, folders, names in os.walk(self.root / folder):
                folders[:] = [name for name in folders if Path(where, name) != self.root / "usr/lib/studio"]
                found += [f"{where}/{name}" for name in names if name.startswith(("python", "libpython"))]
        return found

    def home(self, user: int = 0) -> Path:
        """Return a new home folder in it, without GTK's animations, which use a whole core if there is no GPU."""
        home = self.root / HOME
        shutil.rmtree(home, ignore_errors=True)  # in a Debian that was made before
        settings = home / ".config/gtk-3.0/settings.ini"
        settings.parent.mkdir(parents=True)
        settings.write_text("[Settings]\ngtk-enable-animations=0\n")
        for path in (home, *home.rglob("*")):
            os.chown(path, user, user)
        return home


@contextlib.contextmanager
def made() -> Iterator[Debian]:
    """Make one of this machine's release, whose C library the package needs; LOCARA_CLEAN_ROOM names one to modify."""
    given = os.environ.get("LOCARA_CLEAN_ROOM")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for every user: what is in it becomes the root
        debian = Debian(Path(given) if given else _debootstrapped(Path(folder, "root")))
        assert debian.pythons() == []
        updated = debian.run("/usr/bin/env", "apt-get", "update")
        assert updated.returncode == 0, updated.stdout[-2000:] + updated.stderr[-2000:]
        yield debian


def _debootstrapped(root: Path) -> Path:
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not here (Debian: apt-get install debootstrap)")
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    words = ["debootstrap", "--variant=minbase", release, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"debootstrap makes no Debian here: {done.stdout.strip().splitlines()[-1:]}")
    return root


def on(screen: str) -> dict[str, str]:
    """Return the environment of an app on a display of this machine."""
    shown = {"DISPLAY": screen, "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1", "LIBGL_ALWAYS_SOFTWARE": "1"}
    return {**PLAIN, "HOME": f"/{HOME}", **shown}


def needs_window() -> None:
    """Skip the test where no window can be shown or controlled."""
    if missing():
        pytest.skip(f"not here: {', '.join(missing())}")


def daemons() -> list[psutil.Process]:
    """Return the sidecars of an app that this test has started."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "locara_sidecar" in line(one) and "serve" in line(one)]


def draw(page: Browser, prompt: str) -> None:
    """Request a picture in the window."""
    page.write("textarea", prompt)
    page.click("button", "Draw")


def finished(page: Browser, folder: Path, count: int) -> None:
    """Wait until the folder has this many pictures and the page says that the last one is done."""
    page.until(f"{count} are there", lambda: len(list(folder.glob("*.png"))) == count)
    page.until("it says so", lambda: "Done" in page.text(STATUS))
