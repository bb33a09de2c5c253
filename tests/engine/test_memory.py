"""The process's memory, as the operating system counts it."""

import ctypes
import os
import platform
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from locara_sidecar.daemon import system
from locara_sidecar.engine.fake_engine import runtime
from locara_sidecar.machine import memory
from locara_sidecar.machine.macos import darwin


def test_what_is_touched_counts_and_the_peak_stays():
    before = memory.resident()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    during = memory.resident()
    assert during - before > 48 << 20
    del block
    assert memory.peak() >= during - (4 << 20)


def test_a_macs_footprint_is_read_from_its_place():
    # struct rusage_info_v4: ri_uuid, then ri_user_time … ri_runnable_time; the eighth is ri_phys_footprint, the
    # twenty-ninth ri_lifetime_max_phys_footprint, the ninth is ri_proc_start_abstime
    assert darwin.usage_of(b"u" * 16 + struct.pack("=35Q", *range(1, 36))) == (8, 29, 9)


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS")
def test_a_mac_tells_its_footprint():
    assert memory._mac_usage() is not None


class PlayedLibrary:
    """``proc_pid_rusage`` of a Mac on which processes, by id, use this much."""

    def __init__(self, footprints):
        self._footprints = footprints

    def proc_pid_rusage(self, pid, flavor, buffer):
        assert flavor == 4
        if pid not in self._footprints:
            return -1
        numbers = [0] * 35
        numbers[7], numbers[28] = self._footprints[pid]
        buffer.raw = bytes(16) + struct.pack("=35Q", *numbers)
        return 0


def test_on_a_mac_an_engine_s_memory_is_its_footprint_which_has_what_metal_allocated(monkeypatch):
    played = PlayedLibrary({os.getpid(): (10 << 20, 20 << 20), 4711: (6 << 30, 7 << 30)})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        patch.setattr(ctypes, "CDLL", lambda *_, **__: played)
        patch.setattr(system, "host_memory", lambda: (16 << 30, 8 << 30))
        assert memory.resident_of(4711) == 6 << 30
        assert memory.peak_of(4711) == 7 << 30
        told = system.memory(4711)
        assert (told.daemon, told.engine) == (10 << 20, 6 << 30)
        assert (memory.resident(), memory.peak()) == (10 << 20, 20 << 20)


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("linux", 1024)])
def test_the_peak_that_every_unix_counts_is_in_bytes_on_macos_and_in_kibibytes_elsewhere(monkeypatch, platform, unit):
    """It is used if the kernel offers nothing better: no ``proc_pid_rusage``, no /proc."""
    import resource

    class Old:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Old())
    monkeypatch.setattr(memory, "_highest", lambda status: None)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=70_000))
    monkeypatch.setattr(sys, "platform", platform)
    assert memory.peak() == 70_000 * unit
    assert runtime.FakeRuntime.peak_memory(SimpleNamespace()) == 70_000 * unit


def test_a_process_that_has_ended_takes_nothing_that_could_be_told():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert memory.resident_of(child.pid) is None
    assert memory.peak_of(child.pid) is None
    assert system.memory(child.pid).engine is None
    assert system.memory(None).engine is None


INTERLEAVED = """
import contextlib, sys
from locara_sidecar.daemon import system
from locara_sidecar.machine import memory

apart = memory.large_blocks_apart() if sys.argv[1] == "apart" else contextlib.nullcontext()
b"x" * (30 << 20)  # glibc learns from one that is freed to keep such ones in its heap
before, kept = memory.resident(), []
with apart:
    for size in range(300_000, 5_000_000, 50_000):
        passing = b"x" * size
        kept.append(b"x" * (size + 50_000))  # fits into no hole that is there
        del passing
print((memory.resident() - before) / sum(map(len, kept)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_large_blocks_that_pass_leave_no_holes_between_those_that_stay():
    def taken(how):
        return float(subprocess.run([sys.executable, "-c", INTERLEAVED, how], check=True, capture_output=True).stdout)

    assert taken("apart") < 1.1
    assert taken("together") > 1.5


HOLES = """
from locara_sidecar.daemon import system
from locara_sidecar.machine import memory

before = memory.resident()
blocks = [b"x" * 60_000 for _ in range(1000)]
kept = blocks[::10]  # so that what is free is not at the heap's end
del blocks
with_holes = memory.resident() - before
memory.give_back()
print(with_holes >> 20, memory.resident() - before >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_is_free_within_the_heap_is_given_back():
    told = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True).stdout
    with_holes, without = map(int, told.split())
    assert with_holes > 40
    assert without < 12
