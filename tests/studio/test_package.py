"""The example app as its user installs it: the ``.deb``, on a Debian without Python, made by debootstrap.

``make test-package`` names the built package in LOCARA_DEB. LOCARA_CLEAN_ROOM names a Debian that was made before (it
is changed); without it one is made, of the release of this machine, whose C library the package needs.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from PIL import Image

from support import clean_room
from support.installed_app import free_port, line
from support.webdriver import Browser, display, missing, until

DEB = Path(os.environ.get("LOCARA_DEB", "/nonexistent"))
SIDECAR = "/usr/lib/studio/locara-sidecar/locara-sidecar"
NOBODY = 65534
HOME = "home/someone"
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
SUN = "a smiling sun on a purple background"
STATUS = ".locara-status-words"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DEB.is_file(), reason="make test-package names a built package"),
    pytest.mark.skipif(
        not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="another root folder with its own Debian takes root on Debian",
    ),
]


def room(root, *words, user=0, env=PLAIN, seconds=600):
    """Run a command in the Debian, as a user."""
    start = clean_room.command(root, None, "", *words, user=user)
    return subprocess.run(start, env=env, capture_output=True, text=True, timeout=seconds, check=False)


def pythons(root):
    """The programs and libraries of a Python in the Debian, but for those in the app."""
    found = []
    for folder in ("usr/bin", "usr/local/bin", "usr/lib", "opt"):
        for where, folders, names in os.walk(root / folder):
            folders[:] = [name for name in folders if Path(where, name) != root / "usr/lib/studio"]
            found += [f"{where}/{name}" for name in names if name.startswith(("python", "libpython"))]
    return found


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """A minimal Debian, with what apt installs together with the package."""
    given = os.environ.get("LOCARA_CLEAN_ROOM")
    root = Path(given) if given else tmp_path_factory.mktemp("debian") / "root"
    if not given:
        if shutil.which("debootstrap") is None:
            pytest.skip("debootstrap is not here (Debian: apt-get install debootstrap)")
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        words = ["debootstrap", "--variant=minbase", release, str(root)]
        made = subprocess.run(words, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"debootstrap makes no Debian here: {made.stdout.strip().splitlines()[-1:]}")
    assert pythons(root) == []
    shutil.copyfile(DEB, root / "studio.deb")
    install = ["apt-get", "install", "-y", "--no-install-recommends", "/studio.deb"]
    for words in (["apt-get", "update"], install):
        done = room(root, "/usr/bin/env", *words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    yield root
    if not given:
        shutil.rmtree(root)


def test_it_needs_no_python_and_every_file_is_as_built(debian):
    assert pythons(debian) == []
    done = room(debian, SIDECAR, "doctor", "--verify", user=NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("as built.\n")


def test_its_sidecar_draws_confined_for_a_user_who_may_write_nothing_there(debian):
    poisoned = {"PYTHONHOME": "/nope", "PYTHONPATH": "/nope", "HOME": "/tmp/home"}
    told = room(debian, SIDECAR, "doctor", user=NOBODY, env=poisoned)
    assert told.returncode == 0, told.stdout
    done = room(debian, SIDECAR, "demo", SUN, "--steps", "1", "--out", "/tmp/out", user=NOBODY, env=poisoned)
    assert done.returncode == 0, done.stderr
    assert "pocket on " in done.stdout


@pytest.fixture
def page(debian):
    """The page of the installed app, started in the Debian on a display of this machine."""
    if missing():
        pytest.skip(f"not here: {', '.join(missing())}")
    done = room(debian, "/usr/bin/env", "apt-get", "install", "-y", "--no-install-recommends", "webkit2gtk-driver")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert pythons(debian) == []
    shutil.rmtree(debian / HOME, ignore_errors=True)  # in a Debian that was made before
    settings = debian / HOME / ".config/gtk-3.0/settings.ini"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[Settings]\ngtk-enable-animations=0\n")
    with display() as screen:
        env = {**PLAIN, "HOME": f"/{HOME}", "DISPLAY": screen, "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
        driver = clean_room.command(debian, None, "", "/usr/bin/WebKitWebDriver")
        browser = Browser(Path("/usr/bin/studio"), free_port(), env | {"LIBGL_ALWAYS_SOFTWARE": "1"}, driver)
        yield browser
        browser.close()
    until("all processes are gone", lambda: not daemons(), 30)


def daemons():
    """Those of the app that this test has started."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "locara_sidecar" in line(one) and "serve" in line(one)]


def draw(page, prompt):
    page.write("textarea", prompt)
    page.click("button", "Draw")


def finished(page, folder, count):
    page.until(f"{count} are there", lambda: len(list(folder.glob("*.png"))) == count)
    page.until("it says so", lambda: "Done" in page.text(STATUS))


def test_it_draws_in_its_window_and_goes_on_while_the_package_is_replaced(debian, page):
    """dpkg puts each new file in the place of the old one, one by one, while the old daemon runs."""
    pictures = debian / HOME / "Pictures/studio"
    draw(page, SUN)
    finished(page, pictures, 1)
    (before,) = daemons()
    draw(page, "a green apple on a white background")
    replaced = room(debian, "/usr/bin/dpkg", "--install", "/studio.deb")
    assert replaced.returncode == 0, replaced.stderr
    finished(page, pictures, 2)
    (engine,) = before.children()
    engine.kill()
    draw(page, SUN)
    finished(page, pictures, 3)
    assert daemons() == [before]
    for file in pictures.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()
    assert room(debian, SIDECAR, "doctor", "--verify", user=NOBODY).returncode == 0
