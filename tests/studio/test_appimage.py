"""The example app as its user starts it: the AppImage, on a Debian without Python and without WebKitGTK.

``make test-package PACKAGES=appimage`` names the built file in LOCARA_APPIMAGE. The driver is this machine's, and its
WebKitGTK must be the one that the AppImage was built with.
"""

import os
import shlex
import shutil
import stat
from pathlib import Path

import psutil
import pytest
from PIL import Image

from support import clean_room, debian
from support.debian import HOME, SUN, daemons, draw, finished
from support.installed_app import free_port
from support.webdriver import Browser, display, until

APPIMAGE = Path(os.environ.get("LOCARA_APPIMAGE", "/nonexistent"))
AT = "/opt/studio.AppImage"
FOLDER = "usr/share/studio/locara-sidecar"
USER = 1000
FUSE = Path("/dev/fuse")
#: What every AppImage takes from the desktop that it starts on: graphics, sound, fonts, X, GLib.
DESKTOP = (
    *("libegl1", "libgl1", "libgles2", "libgl1-mesa-dri", "libgbm1", "libasound2", "libx11-6", "libxcb1"),
    *("libglib2.0-0", "libfontconfig1", "libfreetype6", "libfribidi0", "libharfbuzz0b", "libthai0"),
    "fonts-dejavu-core",
)

pytestmark = [
    *debian.MARKS,
    pytest.mark.skipif(not APPIMAGE.is_file(), reason="make test-package PACKAGES=appimage names a built one"),
]


@pytest.fixture(scope="module")
def desktop():
    """A minimal Debian with what a desktop has, and the AppImage."""
    with debian.made() as made:
        made.install(*DESKTOP)
        put(made)
        assert made.pythons() == []
        assert list(made.root.glob("usr/lib/**/libwebkit2gtk*")) == []
        yield made


@pytest.fixture
def start(desktop, tmp_path):
    """Starts the AppImage in the Debian as a user, on a display of this machine; gives its page."""
    debian.needs_window()
    program = tmp_path / "studio"
    pages = []
    with display() as screen:

        def started(*words, user):
            desktop.home(user)
            line = shlex.join(clean_room.command(desktop.root, None, "", AT, *words, user=user))
            program.write_text(f"#!/bin/sh\nexec {line}\n")
            program.chmod(0o755)
            pages.append(Browser(program, free_port(), debian.on(screen)))
            return pages[-1]

        yield started
        for page in pages:
            page.close()
    until("all processes are gone", lambda: not daemons(), 30)


def test_every_file_of_the_sidecar_is_as_built_and_it_draws_with_the_variables_that_an_appimage_has(desktop):
    """An AppImage's launcher points Python, and the dynamic loader, into it."""
    inside = "/tmp/squashfs-root/usr"
    pointed = {"PYTHONHOME": f"{inside}/", "PYTHONPATH": f"{inside}/share", "LD_LIBRARY_PATH": f"{inside}/lib"}
    program = f"env {_words(pointed)} squashfs-root/{FOLDER}/locara-sidecar"
    sidecar = f"cd /tmp && {AT} --appimage-extract >/dev/null && exec {program}"
    done = desktop.run("/bin/sh", "-c", f"{sidecar} doctor --verify", user=USER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("as built.\n")
    done = desktop.run("/bin/sh", "-c", f"{sidecar} demo x --steps 1 --out /tmp/out", user=USER)
    assert done.returncode == 0, done.stderr
    assert "pocket on " in done.stdout


def test_unpacked_it_draws_in_its_window_for_an_ordinary_user_and_goes_on_when_it_is_replaced(desktop, start):
    assert not (desktop.root / "usr/bin/fusermount3").exists()
    drawn(desktop, start("--appimage-extract-and-run", user=USER), "/tmp/appimage_extracted_", USER)


@pytest.mark.skipif(not FUSE.exists(), reason="there is no /dev/fuse here")
def test_mounted_it_draws_in_its_window_and_goes_on_when_it_is_replaced(desktop, start):
    """As root, because nobody else may open /dev/fuse, as in a container."""
    user = USER if stat.S_IMODE(FUSE.stat().st_mode) & 0o006 == 0o006 else 0
    desktop.install("fuse3")
    drawn(desktop, start(user=user), "/tmp/.mount_", user)


def drawn(desktop, page, inside, user):
    """Draw; look at the daemon and its engine, which run from a folder whose name begins with ``inside``. Replace the
    AppImage, and draw once more, with an engine that starts after that."""
    pictures = desktop.root / HOME / "Pictures/studio"
    draw(page, SUN)
    finished(page, pictures, 1)
    (daemon,) = daemons()
    (engine,) = daemon.children()
    for process in (daemon, engine):
        assert process.exe().startswith(inside)
        assert f"/{FOLDER}/python/bin/" in process.exe()
    assert daemon.uids().real == user
    assert not {"PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"} & daemon.environ().keys()
    assert _status(engine)["Seccomp"] == "2"
    put(desktop)
    engine.kill()
    draw(page, SUN)
    finished(page, pictures, 2)
    assert daemons() == [daemon]
    for file in pictures.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()


def put(desktop):
    """Replace the AppImage, as an update does."""
    file = desktop.root / AT.lstrip("/")
    new = file.with_suffix(".new")
    shutil.copyfile(APPIMAGE, new)
    new.chmod(0o755)
    new.replace(file)


def _words(variables: dict[str, str]) -> str:
    return shlex.join(f"{name}={value}" for name, value in variables.items())


def _status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
