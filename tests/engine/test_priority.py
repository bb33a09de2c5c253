"""The daemon's threads are woken at once, the engine's later, as read back from the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import threading
from pathlib import Path

import pytest

from locara_sidecar.machine.processes import priority

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_RELEASE = tuple(int(part) for part in platform.release().split(".")[:2]) if sys.platform == "linux" else (0, 0)

pytestmark = pytest.mark.skipif(
    _RELEASE < (6, 12) or platform.machine() not in _SCHED_GETATTR, reason="Linux has slices of one's own since 6.12"
)


def slice_of(thread: int) -> int:
    """Return the scheduling slice of a thread, in nanoseconds; None if the thread has ended."""
    attributes = ctypes.create_string_buffer(56)
    if ctypes.CDLL(None, use_errno=True).syscall(_SCHED_GETATTR[platform.machine()], thread, attributes, 56, 0) != 0:
        assert ctypes.get_errno() == errno.ESRCH
        return None
    return struct.unpack_from("=IIQiIQ", attributes)[5]


def in_a_child(act):
    """Return what ``act`` returns in a child process, because a slice, once requested, stays."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, struct.pack("=4q", *act()))
        finally:
            os._exit(0)
    os.close(write)
    try:
        return struct.unpack("=4q", os.read(read, 32))
    finally:
        os.close(read)
        os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_every_thread_gets_the_short_slice_keeps_its_priority_and_an_earlier_child_does_not():
    def act():
        over = threading.Event()
        other = threading.Thread(target=over.wait, daemon=True)
        other.start()
        earlier = os.fork()
        if earlier == 0:
            threading.Event().wait()
        os.nice(3)
        priority.answer_promptly()
        seen = (slice_of(0), slice_of(other.native_id), slice_of(earlier), os.nice(0))
        os.kill(earlier, 9)
        os.waitpid(earlier, 0)
        return seen

    own, others, childs, nice = in_a_child(act)
    assert own == others == 100_000
    assert childs > own
    assert nice == min(19, os.nice(0) + 3)


def test_the_daemon_asks_for_it_when_its_engine_starts_and_the_engine_does_not_have_it(hosts):
    host = hosts.session()
    threads = [int(task.name) for task in Path(f"/proc/{host.process.pid}/task").iterdir()]
    assert all(slice_of(thread) > 100_000 for thread in threads)
    host.generate(steps=1)
    assert {slice_of(thread) for thread in threads} - {None} == {100_000}  # idle ones end after some seconds
    assert slice_of(host.call("ping")["engine"]["pid"]) > 100_000
