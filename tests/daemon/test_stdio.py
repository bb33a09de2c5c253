"""The descriptors: what claiming them leaves behind, reading to the end, writing everything."""

import os
import select
import socket
import subprocess
import sys
import threading

import pytest

from locara_sidecar.daemon.wire import stdio
from locara_sidecar.daemon.wire.stdio import ByteReader, LineWriter

CLAIM = """
import os
for fd in {closed}:
    os.close(fd)
from locara_sidecar.daemon.wire import stdio
read, write = stdio.claim()
os.write(write, b"to the host\\n")
os.write(1, b"stray\\n")
print("stray", flush=True)
assert read > 2 and write > 2, (read, write)
assert not os.get_inheritable(read) and not os.get_inheritable(write)
assert os.read(0, 9) == b""
assert os.path.sameopenfile(1, 2)
assert os.read(read, 99) == {expected}
os.write(write, b"sound\\n")
"""


def test_a_claimed_stdout_takes_the_hosts_lines_only_and_stdin_is_nobody_elses():
    code = CLAIM.format(closed=(), expected=b"a line\n")
    done = subprocess.run([sys.executable, "-c", code], input=b"a line\n", capture_output=True, timeout=20)
    assert done.stdout == b"to the host\nsound\n", done.stderr
    assert done.stderr == b"stray\nstray\n"


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 2)])
def test_descriptors_that_the_host_closed_are_taken_before_a_file_can_land_on_them(closed):
    code = CLAIM.format(closed=closed, expected=b"" if 0 in closed else b"a line\n")
    done = subprocess.run([sys.executable, "-c", code], input=b"a line\n", capture_output=True, timeout=20)
    assert done.stdout == b"to the host\nsound\n", done.stderr


class Lines:
    """A source with a few chunks."""

    def __init__(self, *chunks):
        self._chunks = list(chunks)

    def take(self, max_bytes):
        return self._chunks.pop(0) if self._chunks else None


def test_what_a_short_write_leaves_is_written_too(monkeypatch):
    written = []

    def short(fd, data):
        written.append(bytes(data[:3]))
        return min(3, len(data))

    monkeypatch.setattr(os, "write", short)
    writer = LineWriter(99, Lines(b"a longer line\n", b"b\n"), lambda: pytest.fail("nothing broke"))
    writer.start()
    assert writer.wait(10)
    assert b"".join(written) == b"a longer line\nb\n"


def test_a_host_that_closed_its_end_is_told_once():
    reading, writing = os.pipe()
    os.close(reading)
    broken = []
    writer = LineWriter(writing, Lines(b"a\n", b"b\n"), lambda: broken.append(True))
    writer.start()
    assert writer.wait(10)
    os.close(writing)
    assert broken == [True]


def test_a_read_that_fails_is_the_end():
    chunks, over = [], threading.Event()

    def deliver(chunk):
        chunks.append(chunk)
        if not chunk:
            over.set()

    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    ByteReader(reading, deliver).start()
    assert over.wait(10)
    assert chunks == [b""]


class MacsPoll:
    """``poll`` as xnu makes it of a kqueue (``bsd/kern/sys_generic.c``): without a requested event, nothing is
    watched, and a hang-up is not reported."""

    def __init__(self):
        self._real = honest_poll()
        self._asked = 0

    def register(self, fd, events):
        self._asked = events
        self._real.register(fd, events)

    def poll(self, timeout):
        return self._real.poll(timeout) if self._asked & (select.POLLIN | select.POLLHUP) else []


@pytest.mark.skipif(not hasattr(select, "poll"), reason="plays poll")
def test_a_device_that_cannot_be_watched_has_not_left(monkeypatch):
    class Poll:
        def register(self, fd, events):
            self._fd = fd

        def poll(self, _timeout):
            return [(self._fd, select.POLLNVAL)]

    monkeypatch.setattr(select, "poll", Poll)
    assert not stdio._hung_up(0)


honest_poll = getattr(select, "poll", None)


@pytest.mark.skipif(honest_poll is None, reason="plays poll")
@pytest.mark.parametrize(
    "ends", [os.pipe, lambda: tuple(end.detach() for end in socket.socketpair())], ids=["pipe", "socketpair"]
)
@pytest.mark.parametrize("mac", [False, True])
def test_a_host_that_left_is_seen_while_what_it_sent_is_not_processed_yet(monkeypatch, ends, mac):
    if mac:
        monkeypatch.setattr(select, "poll", MacsPoll)
        monkeypatch.delattr(select, "POLLRDHUP", raising=False)
    reading, writing = ends()
    left, delivered = threading.Event(), threading.Semaphore(0)
    reader = ByteReader(reading, lambda chunk: delivered.release(), left.set)
    reader.start()
    for _ in range(4):
        os.write(writing, b"a line\n")
        assert delivered.acquire(timeout=10)
    assert not left.wait(0.3), "it is still there"
    os.write(writing, b"a last line\n")
    os.close(writing)
    assert left.wait(10)
    reader.done()
    reader.done()
    reader.ended()


def test_a_reader_stays_only_a_few_chunks_ahead():
    reading, writing = os.pipe()
    delivered = threading.Semaphore(0)
    reader = ByteReader(reading, lambda chunk: delivered.release())
    reader.start()
    for number in range(4):
        os.write(writing, b"%d" % number)
        assert delivered.acquire(timeout=10)
    os.write(writing, b"5")
    assert not delivered.acquire(timeout=0.1)
    reader.done()
    assert delivered.acquire(timeout=10)
    os.close(writing)
