"""Whether the process that left something in the cache still runs, told without a lock."""

import os
import subprocess
import sys

import pytest

from locara_sidecar.models.cache import owner

NAME = "from locara_sidecar.models.cache import owner; print(owner.name(), flush=True); input()"


def changed(place, value):
    parts = owner.name().split("-")
    parts[place] = value
    return "-".join(parts)


def test_a_process_is_alive_until_it_has_ended_however_it_ends():
    assert owner.state(owner.name()) == "alive"
    with subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        name = other.stdout.readline().decode().strip()
        assert owner.state(name) == "alive"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
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


def test_a_name_can_be_part_of_a_files_name():
    assert set(owner.name()) <= set("0123456789abcdef-")
    assert len(owner.name()) < 100
    assert str(os.getpid()) in owner.name().split("-")
