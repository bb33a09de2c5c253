"""How the engine confines itself on a Mac, here a simulated one: none of this has run on macOS."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from locara_sidecar.daemon import system
from locara_sidecar.engine import sandbox
from locara_sidecar.engine.sandbox import macos, places, seatbelt
from locara_sidecar.machine.macos import app_sandbox, darwin
from support.played_mac import HOMES, XPC, PlayedMac, Profile, on_a_mac

ESSENTIAL = ("readOutside", "writeOutside", "tcp", "udp", "otherPrograms")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A home folder, the system's folders for temporary files and caches, and a scratch folder in one of them."""
    for name in ("home", "T/scratch", "C"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(app_sandbox, "user_home", lambda: str(tmp_path / "home"))
    return tmp_path


def confined(world, monkeypatch, mac, **more):
    with on_a_mac(monkeypatch, mac, **more):
        return sandbox.confine(str(world / "T" / "scratch"), [], mac=mac)


def test_the_root_which_the_profile_must_allow_is_not_among_what_must_be_blocked(world, monkeypatch):
    mac = PlayedMac(world / "C")
    found = confined(world, monkeypatch, mac)
    assert mac.profile.allows("file-read-data", "/")
    assert {found.details[name] for name in (*ESSENTIAL, "localSockets")} == {"blocked"}, found
    assert (found.enforced, found.kind) == (True, "seatbelt")


def test_what_must_fail_is_told_by_platform(world, monkeypatch):
    tried = []
    monkeypatch.setattr(sandbox.attempts, "read", lambda path: tried.append(path) or "open")
    for platform, listed in (("linux", {"/"}), ("darwin", {HOMES})):
        monkeypatch.setattr(sys, "platform", platform)
        outside = sandbox._outside(str(world / "home"), str(world / "T" / "scratch"), [])
        assert set(outside) == listed | {str(world / "home"), str(world / "T")}


@pytest.mark.parametrize(
    ("says", "unknown"),
    [
        ("unbound variable: file-clone", ["file-clone"]),
        ("unbound variable: system-fcntl", ["system-fcntl"]),
        ("a sentence that names nothing", list(seatbelt.NEWER)),
    ],
)
def test_a_rule_that_this_macos_does_not_know_costs_only_itself_and_is_told(world, monkeypatch, says, unknown):
    mac, loaded = PlayedMac(world / "C"), []

    def load(text):
        loaded.append(text)
        if any(word in text for word in unknown):
            raise OSError(f"sandbox_init: {says}")
        mac.profile = Profile(text)

    with on_a_mac(monkeypatch, mac), monkeypatch.context() as patch:
        patch.setattr(seatbelt, "load", load)
        found = sandbox.confine(str(world / "T" / "scratch"), [], mac=mac)
    assert len(loaded) == 2
    assert found.kind == "seatbelt"
    assert {found.details[name] for name in ESSENTIAL if name != "otherPrograms"} == {"blocked"}, found
    assert found.details["otherPrograms"] == ("open" if "lsopen" in unknown else "blocked")
    assert (found.details["seatbelt"], found.details["unknownRules"]) == ("in use", ", ".join(unknown))
    assert found.details["linkedFiles"] == ("open" if "file-clone" in unknown else "blocked")
    assert not found.enforced
    assert f"unknownRules: {', '.join(unknown)}" in found.reason


def test_a_profile_that_is_refused_whole_confines_nothing_and_says_so(world, monkeypatch):
    mac = PlayedMac(world / "C")

    def load(text):
        raise OSError("sandbox_init: no")

    with on_a_mac(monkeypatch, mac), monkeypatch.context() as patch:
        patch.setattr(seatbelt, "load", load)
        found = sandbox.confine(str(world / "T" / "scratch"), [], mac=mac)
    assert (found.kind, found.enforced) == ("none", False)
    assert "no" in found.details["seatbelt"]


def test_words_in_a_path_are_not_taken_for_a_rules():
    text = seatbelt.profile(['/tmp/file-clone "lsopen\\'], [], [])
    left = seatbelt.without(text, ["file-clone", "lsopen"])
    assert set(text.splitlines()) - set(left.splitlines()) == {"(deny file-clone)", "(deny lsopen)"}


def test_an_open_way_to_another_program_is_no_confinement(world, monkeypatch):
    whole = seatbelt.profile
    for lost in (
        "(deny lsopen)",
        "(deny job-creation)",
        '(deny mach-lookup (global-name "com.apple.coreservices.launchservicesd"))',
        '(deny mach-lookup (global-name "com.apple.trustd.agent"))',
        '(deny mach-lookup (xpc-service-name-prefix ""))',
    ):
        mac = PlayedMac(world / "C")
        with monkeypatch.context() as patch:
            patch.setattr(seatbelt, "profile", lambda *paths, lost=lost: whole(*paths).replace(lost, ""))
            found = confined(world, monkeypatch, mac)
        assert found.details["otherPrograms"] == "open"
        assert not found.enforced
        assert "other programs" in found.reason


def test_nothing_that_opens_fetches_or_finds_for_others_is_left_and_metal_s_services_are(world, monkeypatch):
    profile = Profile(seatbelt.profile(["/scratch"], ["/opt/python"], []))
    assert not [name for name in macos._LOOKED_UP if profile.allows("mach-lookup", name)]
    for name in (
        "com.apple.pasteboard.2",
        "com.apple.nsurlsessiond.NSURLSessionProxyService",
        "com.apple.metadata.mds",
    ):
        assert not profile.allows("mach-lookup", name)
    for name in (
        *("com.apple.cvmsServ", "com.apple.CARenderServer", "com.apple.logd", "com.apple.PowerManagement.control"),
        *(f"{XPC}com.apple.MTLCompilerService", f"{XPC}com.apple.AGXCompilerService-S2A8"),
    ):
        assert profile.allows("mach-lookup", name)
    for name in ("com.apple.WebKit.Networking", "com.apple.WebKit.WebContent", "com.apple.MTLCompilerService2"):
        assert not profile.allows("mach-lookup", f"{XPC}{name}")
    assert profile.allows("iokit-open")  # the GPU's user client
    assert not profile.allows("process-exec*", "/usr/bin/open")
    assert profile.allows("process-exec*", "/usr/bin/clang")
    assert not profile.allows("user-preference-write")
    assert not profile.allows("lsopen")


def test_a_link_or_a_clone_brings_no_file_to_where_other_rules_hold(world, monkeypatch):
    mac = PlayedMac(world / "C")
    found = confined(world, monkeypatch, mac)
    assert found.details["linkedFiles"] == "blocked"
    for path in ("/Users/a/diary", str(world / "T" / "scratch" / "x"), "/usr/lib/x"):
        assert not mac.profile.allows("file-link", path)
        assert not mac.profile.allows("file-clone", path)
    assert os.listdir(world / "T" / "scratch") == []


@pytest.mark.parametrize("lost", ["(deny file-link)", "(deny file-clone)"])
def test_a_way_to_link_or_clone_is_no_confinement(world, monkeypatch, lost):
    whole = seatbelt.profile
    monkeypatch.setattr(seatbelt, "profile", lambda *paths: whole(*paths).replace(lost, ""))
    found = confined(world, monkeypatch, PlayedMac(world / "C"))
    assert (found.details["linkedFiles"], found.enforced) == ("open", False)
    assert "second name" in found.reason
    assert os.listdir(world / "T" / "scratch") == []


def test_a_file_that_is_open_for_reading_cannot_be_changed_by_a_request():
    profile = Profile(seatbelt.profile(["/scratch"], [], ["/models/a"]))
    for makecompressed_or_transferextents in ("80", "110"):
        assert not profile.allows("system-fcntl", makecompressed_or_transferextents)
    for getfl_or_getpath in ("3", "50"):
        assert profile.allows("system-fcntl", getfl_or_getpath)


def test_of_the_devices_the_engine_reads_none_of_the_user_s():
    profile = Profile(seatbelt.profile(["/scratch"], ["/opt"], []))
    for device in ("/dev/ttys000", "/dev/tty", "/dev/disk1", "/dev"):
        assert not profile.allows("file-read-data", device)
        assert not profile.allows("file-write-data", device)
    for device in ("/dev/null", "/dev/urandom"):
        assert profile.allows("file-read-data", device)
        assert profile.allows("file-write-data", device)


def test_what_servers_keep_beside_programs_is_the_user_s_unless_a_model_is_there():
    profile = Profile(seatbelt.profile(["/scratch"], ["/opt", "/usr"], ["/opt/homebrew/var/models/a"]))
    assert profile.allows("file-read-data", "/opt/homebrew/lib/libomp.dylib")
    assert profile.allows("file-read-data", "/opt/homebrew/var/models/a/vae")
    for path in ("/opt/homebrew/var/postgres/base/1", "/usr/local/var/mysql/a"):
        assert not profile.allows("file-read-data", path)


def test_metal_may_write_a_cache_of_the_engine_s_own_and_not_that_of_all_programs(world, monkeypatch):
    mac = PlayedMac(world / "C")
    found = confined(world, monkeypatch, mac)
    own = str(world / "C" / macos.CACHE_SUFFIX)
    assert found.details["compilerCache"] == "in use"
    assert os.stat(own).st_mode & 0o777 == 0o700
    for name in ("com.apple.metal/1/functions.data", "com.apple.metalfe/a"):
        assert mac.profile.allows("file-write-create", f"{own}/{name}")
        assert mac.profile.allows("file-read-data", f"{own}/{name}")
    assert not mac.profile.allows("file-write-create", str(world / "C" / "com.apple.metal"))
    assert not mac.profile.allows("file-read-data", str(world / "C" / "com.apple.Safari"))
    assert not mac.profile.allows("process-exec*", f"{own}/program")


def test_without_a_cache_of_its_own_the_engine_gets_none_and_is_confined_all_the_same(world, monkeypatch):
    mac = PlayedMac(world / "C", suffixes=False)
    found = confined(world, monkeypatch, mac)
    assert found.enforced
    assert found.details["compilerCache"] == "not available (EINVAL)"
    assert not mac.profile.allows("file-write-create", str(world / "C" / "x"))


def test_a_socket_that_is_there_is_reached_for_since_the_file_system_answers_first_where_none_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path can have about a hundred bytes
    with socket.socket(socket.AF_UNIX) as served, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        served.bind("stream")
        served.listen()
        datagrams.bind("datagrams")
        assert macos._connect("stream", socket.SOCK_STREAM) == "open"
        assert macos._connect("datagrams", socket.SOCK_DGRAM) == "open"
        datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)
    assert macos._connect("nobody", socket.SOCK_STREAM) == "unknown"
    for error, outcome in ((errno.EPERM, "blocked"), (errno.EACCES, "blocked"), (errno.ENOENT, "unknown")):
        refused = lambda *_, error=error: (_ for _ in ()).throw(OSError(error, "refused"))  # noqa: E731
        monkeypatch.setattr(macos.socket.socket, "connect", refused)
        assert macos._connect("stream", socket.SOCK_STREAM) == outcome


class Spelling:
    """A file system that ignores case: every path has one spelling."""

    def __init__(self, *paths):
        self._paths = {path.casefold(): path for path in paths}

    def real_path(self, path):
        try:
            return self._paths[path.casefold()]
        except KeyError:
            raise FileNotFoundError(path) from None


def test_a_path_is_written_into_the_profile_as_the_file_system_spells_it(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(darwin, "Darwin", lambda: Spelling("/Users/a/Models/Flux"))
    profile = Profile(seatbelt.profile(["/users/a/not there"], [], ["/users/A/models/flux"]))
    assert profile.allows("file-read-data", "/Users/a/Models/Flux/vae.safetensors")
    assert profile.allows("file-write-create", "/users/a/not there/x")


def test_a_home_folder_in_other_letters_is_a_home_folder(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(darwin, "Darwin", lambda: Spelling("/Users/a", "/Users"))
    given = dict(places.rules("/scratch", ["/users/A", "/USERS", "/users/A/model"], "/Users/a", ["/users/A"]))
    assert [path for path in given if path.casefold().startswith("/users")] == ["/users/A/model"]


def test_a_folder_that_the_engine_was_given_in_other_letters_is_not_what_must_be_blocked(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(darwin, "Darwin", lambda: Spelling("/Users/a", "/Users/a/T", "/Users"))
    monkeypatch.setattr(sandbox.attempts, "read", lambda path: "open")
    outside = sandbox._outside("/users/A", "/users/a/t/scratch", [("/USERS/A/T", "read")])
    assert set(outside) == {"/Users", "/Users/a"}


def test_what_a_variadic_call_gets_beyond_its_declared_arguments_is_not_declared(monkeypatch):
    """On Apple's arm64 such arguments are on the stack: ctypes puts arguments beyond ``argtypes`` there."""
    called = []

    def sandbox_check(*arguments):
        called.append((len(sandbox_check.argtypes), len(arguments), arguments[2]))
        return 1

    monkeypatch.setattr(darwin, "_library", lambda name: {"sandbox_check": sandbox_check}[name])
    assert darwin.Darwin().denies("lsopen")
    assert darwin.Darwin().denies("mach-lookup", "com.apple.WebKit.Networking")
    assert called == [(3, 3, 0), (3, 4, 12)]


# --- inside another sandbox -------------------------------------------------------------------


def test_an_engine_in_the_app_sandbox_says_so_and_claims_no_narrower_one(world, monkeypatch):
    monkeypatch.setenv("APP_SANDBOX_CONTAINER_ID", "com.example.studio")
    mac = PlayedMac(world / "C", confined=True)
    found = confined(world, monkeypatch, mac, denied={str(world / "home"), HOMES})
    assert (found.kind, found.enforced) == ("app-sandbox", False)
    assert {found.details[name] for name in ("readOutside", "writeUserFiles", "tcp", "udp")} == {"blocked"}
    assert "linkedFiles" not in found.details, "the app's container is one place"
    assert found.details["writeOutside"] == "open", "the app's container is open to the engine, and that is told"
    assert "no narrower one" in found.reason
    assert "App Sandbox" in found.reason
    assert mac.profile is None
    assert mac.user_cache_dir() == str(world / "C"), "Metal's cache is the app's: nothing else was prepared either"


def test_an_app_whose_user_s_home_can_be_written_to_does_not_hide_that(world, monkeypatch):
    home = str(world / "home")
    mac = PlayedMac(world / "C", confined=True)
    found = confined(world, monkeypatch, mac, denied={home, HOMES}, writable={home})
    assert (found.details["readOutside"], found.details["writeUserFiles"]) == ("blocked", "open")
    assert "writing there: open" in found.reason


def test_another_sandbox_around_us_is_not_taken_for_the_app_s(world, monkeypatch):
    monkeypatch.delenv("APP_SANDBOX_CONTAINER_ID", raising=False)
    found = confined(world, monkeypatch, PlayedMac(world / "C", confined=True))
    assert (found.kind, found.enforced) == ("inherited", False)


def test_the_variable_alone_makes_no_app_sandbox(world, monkeypatch):
    monkeypatch.setenv("APP_SANDBOX_CONTAINER_ID", "anything")
    found = confined(world, monkeypatch, PlayedMac(world / "C"))
    assert (found.kind, found.enforced) == ("seatbelt", True)


@pytest.mark.parametrize(
    ("given", "kind"), [("app-sandbox", "app-sandbox"), ("inherited", "inherited"), (None, "seatbelt")]
)
def test_the_daemon_knows_at_its_start_what_it_was_started_in(monkeypatch, given, kind):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(app_sandbox, "given", lambda: given)
    told = system.sandbox(system.EngineFacts(None, None, None, None))
    assert (told.kind, told.enforced) == (kind, False)
    assert ("cannot enter a narrower one" in told.reason) is (given is not None)


@pytest.mark.skipif(sys.platform == "darwin", reason="asks what other systems say")
def test_elsewhere_nothing_is_given_and_nothing_of_macos_can_be_called():
    from locara_sidecar.machine.macos.darwin import Darwin

    assert app_sandbox.given() is None
    with pytest.raises(OSError, match="macOS"):
        Darwin().denies(None)
