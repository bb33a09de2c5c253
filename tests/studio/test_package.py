"""The example app as its user installs it: the ``.deb``, on a Debian without Python, made by debootstrap.

``make test-package`` names the built package in LOCARA_DEB. LOCARA_CLEAN_ROOM names a Debian that was made before (it
is changed); without it one is made, of the release of this machine, whose C library the package needs.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from locara_sidecar.machine import bundle
from support import clean_room, debian
from support.debian import HOME, NOBODY, SUN, daemons, draw, finished
from support.installed_app import free_port
from support.webdriver import Browser, display, until

DEB = Path(os.environ.get("LOCARA_DEB", "/nonexistent"))
FOLDER = "usr/lib/studio/locara-sidecar"
SIDECAR = f"/{FOLDER}/locara-sidecar"

pytestmark = [
    *debian.MARKS,
    pytest.mark.skipif(not DEB.is_file(), reason="make test-package names a built package"),
]


@pytest.fixture(scope="module")
def installed():
    """A minimal Debian, with what apt installs together with the package."""
    with debian.made() as made:
        shutil.copyfile(DEB, made.root / "studio.deb")
        made.install("/studio.deb")
        yield made


@pytest.fixture
def start(installed):
    """Starts the installed app in the Debian on a display of this machine; gives its page."""
    debian.needs_window()
    installed.install("webkit2gtk-driver")
    assert installed.pythons() == []
    installed.home()
    pages = []
    with display() as screen:
        driver = clean_room.command(installed.root, None, "", "/usr/bin/WebKitWebDriver")

        def started():
            pages.append(Browser(Path("/usr/bin/studio"), free_port(), debian.on(screen), driver))
            return pages[-1]

        yield started
        for page in pages:
            page.close()
    until("all processes are gone", lambda: not daemons(), 30)


def test_it_needs_no_python_and_every_file_is_as_built(installed):
    assert installed.pythons() == []
    done = installed.run(SIDECAR, "doctor", "--verify", user=NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("as built.\n")


def test_its_sidecar_draws_confined_for_a_user_who_may_write_nothing_there(installed):
    poisoned = {"PYTHONHOME": "/nope", "PYTHONPATH": "/nope", "HOME": "/tmp/home"}
    told = installed.run(SIDECAR, "doctor", user=NOBODY, env=poisoned)
    assert told.returncode == 0, told.stdout
    done = installed.run(SIDECAR, "demo", SUN, "--steps", "1", "--out", "/tmp/out", user=NOBODY, env=poisoned)
    assert done.returncode == 0, done.stderr
    assert "pocket on " in done.stdout


def test_it_draws_in_its_window_and_goes_on_while_the_package_is_replaced(installed, start):
    """dpkg replaces the files one by one while the old daemon runs."""
    page, pictures = start(), installed.root / HOME / "Pictures/studio"
    draw(page, SUN)
    finished(page, pictures, 1)
    (before,) = daemons()
    replaced_while_it_draws(installed, page, "/studio.deb", pictures)
    assert daemons() == [before]
    assert installed.run(SIDECAR, "doctor", "--verify", user=NOBODY).returncode == 0


def test_it_draws_on_while_another_version_is_installed_and_is_that_version_when_it_starts_anew(
    installed, start, tmp_path
):
    newer(tmp_path, installed.root / "newer.deb")
    page, pictures = start(), installed.root / HOME / "Pictures/studio"
    draw(page, SUN)
    finished(page, pictures, 1)
    (before,) = daemons()
    replaced_while_it_draws(installed, page, "/newer.deb", pictures)
    assert daemons() == [before]
    page.close()
    until("the old one is gone", lambda: not daemons(), 30)
    listed = installed.run("/usr/bin/dpkg-query", "--show", "studio")
    assert listed.stdout.split() == ["studio", "9.0.0"]
    assert installed.run(SIDECAR, "--version", user=NOBODY).stdout.split()[-1] == "9.0.0"
    done = installed.run(SIDECAR, "doctor", "--verify", user=NOBODY)
    assert done.returncode == 0, done.stdout  # nothing of the old version is left behind
    draw(start(), SUN)
    until("the new one has drawn", lambda: len(list(pictures.glob("*.png"))) == 4)


def replaced_while_it_draws(installed, page, package, pictures):
    """Install a package in the middle of the second picture; a third one is of an engine that starts after that."""
    (daemon,) = daemons()
    page.write("textarea", "a green apple on a white background")
    page.click("button", "Draw")
    replaced = installed.run("/usr/bin/dpkg", "--install", package)
    assert replaced.returncode == 0, replaced.stderr
    finished(page, pictures, 2)
    (engine,) = daemon.children()
    engine.kill()
    draw(page, SUN)
    finished(page, pictures, 3)
    for file in pictures.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()


def newer(scratch, package):
    """The package as another version, of the app and of the sidecar: one file less, one more, and one changed."""
    unpacked = scratch / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", DEB, unpacked], check=True)
    control = unpacked / "DEBIAN/control"
    control.write_text("".join(map(of_version_9, control.read_text().splitlines(keepends=True))))
    folder = unpacked / FOLDER
    package_of_ours = next(folder.rglob("site-packages/locara_sidecar"))
    for compiled in package_of_ours.glob("__pycache__/__init__.*.pyc"):
        compiled.unlink()
    (package_of_ours / "__init__.py").write_text('"""Another one."""\n\n__version__ = "9.0.0"\n')
    (package_of_ours / "added.py").write_text("")
    shutil.rmtree(next(folder.glob("LICENSES/pocket-*")))
    bundle.write(folder)
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build"]  # to compress it takes minutes
    subprocess.run([*build, unpacked, package], check=True, capture_output=True)


def of_version_9(line):
    return "Version: 9.0.0\n" if line.startswith("Version:") else line
