"""Each call to macOS, made to a library with the same prototypes: the right library and name, whole pointers, the right
widths, and errors reported as errors. What the real calls do is not tested here."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from locara_sidecar.engine.sandbox import seatbelt
from locara_sidecar.machine.macos import darwin

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="compiles a library in place of macOS's"
)

SYSTEM = "/usr/lib/libSystem.B.dylib"
SOURCE = Path(__file__).parents[1] / "support" / "played_macos.c"


PREFIXES = {"CoreFoundation": ("CF",), "IOKit": ("IO",), "Foundation": (), "libobjc.A.dylib": ("objc_", "sel_")}
"""How the names begin that are in it."""


class Of:
    """The functions of one of macOS's libraries."""

    def __init__(self, library, prefixes):
        self._library, self._prefixes = library, prefixes

    def __getattr__(self, name):
        if not name.startswith(self._prefixes):
            raise AttributeError(name)
        return getattr(self._library, name)


class Library:
    """The compiled library, and which of macOS's libraries it was opened as."""

    def __init__(self, path):
        self._path, self._load = path, ctypes.CDLL
        self.own = self._load(path)
        self.own.played_seen.restype = ctypes.c_char_p
        self.loaded = set()

    def load(self, name, use_errno=False):
        self.loaded.add(name)
        library = self._load(self._path, use_errno=use_errno)
        return library if name == SYSTEM else Of(library, PREFIXES[name.rpartition("/")[2]])

    def seen(self):
        """The calls since the last time, one per line."""
        lines = self.own.played_seen().decode().splitlines()
        self.own.played_forget()
        return lines


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("played") / "libplayed.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, SOURCE], check=True)
    return str(path)


@pytest.fixture
def macos(compiled, monkeypatch):
    library = Library(compiled)
    library.own.played_forget()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", library.load)
    yield library
    assert all(name.startswith(("/usr/lib/", "/System/Library/Frameworks/")) for name in library.loaded)


MAC = darwin.Darwin()


def test_a_profile_is_loaded_as_text_and_a_refusal_has_the_system_s_words(macos):
    seatbelt.load("(version 1)")
    assert macos.seen() == ["sandbox_init (version 1) 0"]
    with pytest.raises(OSError, match="sandbox_init: unbound variable: unknown-rule"):
        seatbelt.load("(deny unknown-rule)")
    assert macos.seen()[1:] == ["sandbox_free_error unbound variable: unknown-rule"]
    assert macos.loaded == {SYSTEM}


def test_the_kernel_is_asked_what_is_denied(macos):
    assert not MAC.denies(None)
    assert MAC.denies("lsopen")
    assert MAC.denies("mach-lookup", "com.apple.WebKit.Networking")
    with pytest.raises(OSError, match="sandbox_check") as caught:
        MAC.denies("unknown")
    assert caught.value.errno == errno.EINVAL
    assert macos.seen() == [
        *("sandbox_check 1 NULL 0 ", "sandbox_check 1 lsopen 0 "),
        *("sandbox_check 1 mach-lookup 12 com.apple.WebKit.Networking", "sandbox_check 1 unknown 0 "),
    ]


def test_a_service_is_looked_up_in_the_session_s_port(macos):
    assert MAC.look_up("com.apple.there") == 0
    assert MAC.look_up("com.apple.not") == darwin.NOT_PRIVILEGED
    assert macos.seen() == ["bootstrap_look_up 80000707 com.apple.there", "bootstrap_look_up 80000707 com.apple.not"]


def test_the_suffix_of_the_user_s_folders_is_set_or_that_fails(macos):
    MAC.set_user_dir_suffix("locara-engine")
    with pytest.raises(OSError, match="_set_user_dir_suffix"):
        MAC.set_user_dir_suffix("a/b")
    assert macos.seen()[0] == "_set_user_dir_suffix locara-engine"


def test_the_cache_folder_is_the_user_s_and_not_the_one_for_temporary_files(monkeypatch):
    darwin_user_dir, temporary, cache = 65536, 65537, 65538
    folders = {darwin_user_dir: "/var/folders/a/0/", temporary: "/var/folders/a/T/", cache: "/var/folders/a/C/"}
    monkeypatch.setattr(os, "confstr", folders.get)
    assert MAC.user_cache_dir() == "/var/folders/a/C/"


def test_the_path_of_a_file_is_asked_of_its_descriptor(monkeypatch, tmp_path):
    import fcntl

    asked = []

    def getpath(fd, number, room):
        asked.append((os.fstat(fd).st_ino, number, len(room)))
        return b"/Users/a/Models\0garbage".ljust(len(room), b"x")

    monkeypatch.setattr(fcntl, "fcntl", getpath)
    held = len(os.listdir("/proc/self/fd"))
    assert MAC.real_path(str(tmp_path)) == "/Users/a/Models"
    assert asked == [(tmp_path.stat().st_ino, 50, 1024)]
    assert len(os.listdir("/proc/self/fd")) == held
    with pytest.raises(FileNotFoundError):
        MAC.real_path(str(tmp_path / "nothing"))


def test_a_clone_is_made_or_its_error_is_told(macos):
    MAC.clone("/a b/c", "free")
    with pytest.raises(FileExistsError):
        MAC.clone("/a b/c", "taken")
    assert macos.seen() == ["clonefile /a b/c free 0", "clonefile /a b/c taken 0"]


def test_a_process_s_figures_are_those_of_the_header_s_members(macos):
    assert MAC.usage(4711) == darwin.Usage(footprint=6 << 30, peak=7 << 30, started=5 << 40)
    with pytest.raises(PermissionError):
        MAC.usage(1)
    assert macos.seen() == ["proc_pid_rusage 4711 4", "proc_pid_rusage 1 4"]


def test_a_mac_tells_its_hardware_and_what_sysctl_has(macos):
    assert MAC.machine() == "ab" * 16
    assert MAC.text("kern.bootsessionuuid") == "A-BOOT-SESSION"
    assert (MAC.number("iogpu.wired_limit_mb"), MAC.number("hw.memsize")) == (12288, 64 << 30)
    for ask in (MAC.text, MAC.number):
        with pytest.raises(FileNotFoundError):
            ask("no.such.value")
    seen = macos.seen()
    assert seen[0] == "gethostuuid 0 0"
    assert all(line.endswith(" (nil) 0") for line in seen[1:]), "nothing is set"


def test_an_assertion_keeps_the_machine_awake_until_it_is_released(macos):
    token = MAC.keep_awake("Locara draws")
    MAC.let_sleep(token)
    with pytest.raises(PermissionError):
        MAC.keep_awake("refused")
    seen = macos.seen()
    assert seen[:2] == [
        "CFStringCreateWithCString 1 PreventUserIdleSystemSleep 8000100",
        "CFStringCreateWithCString 1 Locara draws 8000100",
    ]
    assert seen[2:4] == [
        "IOPMAssertionCreateWithName PreventUserIdleSystemSleep 255 Locara draws",
        "IOPMAssertionRelease 8000abcd",
    ]
    assert macos.own.played_strings() == 0, "every string is given back, even if the assertion is refused"
    assert {name.rpartition("/")[2] for name in macos.loaded} == {"CoreFoundation", "IOKit"}


def test_the_power_state_is_asked_by_messages_that_the_system_knows(macos):
    macos.own.played_before_12(False)
    assert MAC.power() == (True, 2)
    assert "/System/Library/Frameworks/Foundation.framework/Foundation" in macos.loaded
    macos.own.played_before_12(True)
    with pytest.raises(OSError, match="isLowPowerModeEnabled"):
        MAC.power()


def test_what_a_macos_lacks_is_an_error_like_any_other(macos):
    with pytest.raises(OSError, match="no_such_call") as caught:
        darwin._library("no_such_call")
    assert caught.value.errno == errno.ENOSYS
