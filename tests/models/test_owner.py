"""Finding out without a lock whether the process that left something in the cache still runs."""

import errno
import os
import subprocess
import sys
import time

import psutil
import pytest

from locara_sidecar.machine.macos import darwin
from locara_sidecar.models.cache import owner
from support.played_mac import Identity

NAME = "from locara_sidecar.models.cache import owner; print(owner.name(), flush=True); input()"


def changed(place, value):
    parts = owner.name().split("-")
    parts[place] = value
    return "-".join(parts)


def until_zombie(pid):
    deadline = time.monotonic() + 20
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_is_alive_until_it_has_ended_however_it_ends():
    assert owner.state(owner.name()) == "alive"
    with subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        name = other.stdout.readline().decode().strip()
        assert owner.state(name) == "alive"
        other.kill()
        until_zombie(other.pid)
        assert owner.state(name) == "ended", "though nobody has asked how it ended"
    assert owner.state(name) == "ended"


@pytest.mark.skipif(sys.platform != "linux", reason="the start of a process is exact there")
def test_another_process_that_got_the_same_number_is_not_the_owner():
    assert owner.state(changed(4, str(int(owner.name().split("-")[4]) - 1))) == "ended"


def test_what_this_machine_ran_before_it_was_started_anew_has_ended():
    assert owner.state(changed(1, "0" * 8)) == "ended"


def test_what_cannot_be_seen_from_here_is_not_said_to_have_ended():
    assert owner.state(changed(2, "0" * 8)) == "neighbour", "another container of this system"
    assert owner.state(changed(0, "0" * 8)) == "neighbour", "the same, under a host name of its own"
    elsewhere = "-".join(["0" * 8, "1" * 8, *owner.name().split("-")[2:]])
    assert owner.state(elsewhere) == "stranger"
    for name in ("", "a", "part", "1-2-3-4-5", f"{owner.name()} ", changed(3, "-1")):
        assert owner.state(name) == "stranger"
    assert owner.state(changed(3, str(10**30))) in ("alive", "ended")


@pytest.mark.skipif(sys.platform != "linux", reason="hides what Linux says")
@pytest.mark.parametrize(
    "hidden", [["/etc/machine-id", "/var/lib/dbus/machine-id"], ["/proc/sys/kernel/random/boot_id"]]
)
def test_where_the_system_does_not_tell_what_it_is_only_this_process_is_known(monkeypatch, hidden):
    other = subprocess.run([sys.executable, "-c", NAME], input=b"\n", capture_output=True, check=True).stdout
    honest = owner._text
    monkeypatch.setattr(owner, "_text", lambda path: "" if path in hidden else honest(path))
    monkeypatch.setattr(owner, "_places", [])
    assert owner.state(owner.name()) == "alive"
    assert owner.state(other.decode().strip()) != "ended"
    assert owner.state(other.decode().strip()) != "alive"


@pytest.fixture
def a_mac(monkeypatch):
    """Makes this process appear to run on a Mac, by simulating its calls."""

    def play(mac):
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(darwin, "Darwin", lambda: mac)
        monkeypatch.setattr(owner.os.path, "exists", lambda path: False)
        monkeypatch.setattr(owner.os, "readlink", refused)
        monkeypatch.setattr(owner, "_places", [])
        return owner.name()

    return play


def refused(*_):
    raise OSError(errno.ENOSYS, "not on a Mac")


def test_a_mac_is_known_by_its_hardware_and_not_by_its_system_or_the_network_s_name_for_it(a_mac, monkeypatch):
    name = a_mac(Identity("hardware 1", "boot 1"))
    monkeypatch.setattr(owner.socket, "gethostname", lambda: "as another network calls it")
    assert a_mac(Identity("hardware 1", "boot 1")) == name
    assert owner.state(name) == "alive"
    a_mac(Identity("hardware 1", "boot 2"))
    assert owner.state(name) == "ended"
    a_mac(Identity("hardware 2", "boot 2"))
    assert owner.state(name) == "stranger", "another Mac, whose processes cannot be seen from here"


def test_setting_the_clock_ends_nobody_on_a_mac(a_mac, monkeypatch):
    name = a_mac(Identity("hardware 1", "boot 1"))
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time())
    assert owner.state(name) == "alive"
    a_mac(Identity("hardware 1", "boot 1", started=8))
    assert owner.state(name) == "ended", "another process that got the same number"


@pytest.mark.parametrize("unknown", ["machine", "text"])
def test_a_mac_that_does_not_say_which_it_is_says_of_nobody_that_he_has_ended(a_mac, unknown):
    name = a_mac(Identity("hardware 1", "boot 1"))
    mac = Identity("hardware 1", "boot 1")
    setattr(mac, unknown, refused)
    a_mac(mac)
    assert owner.state(name) not in {"ended", "alive"}


def test_a_name_can_be_part_of_a_files_name():
    assert set(owner.name()) <= set("0123456789abcdef-")
    assert len(owner.name()) < 100
    assert str(os.getpid()) in owner.name().split("-")
