"""What the host sends is handled line by line, and with an event loop in turns."""

import os

import pytest

from locara_sidecar.daemon.wire import off_loop
from locara_sidecar.daemon.wire.incoming import Incoming
from locara_sidecar.daemon.wire.outbox import Outbox
from support.host import eventually


class Lines:
    """Stands in for the server: it keeps what it is given."""

    busy = False

    def __init__(self):
        self.seen = []

    def handle_line(self, line):
        self.seen.append(line)

    def handle_long_line(self):
        self.seen.append(None)


@pytest.fixture
def sent():
    """Return a function that has an Incoming read bytes to their end, and returns it and a list: the end is noted."""
    fds = []

    def send(data, later):
        read_fd, write_fd = os.pipe()
        fds.append(read_fd)
        arrived, ended = [], []
        incoming = Incoming(
            read_fd,
            100,
            Outbox(),
            arrived=lambda: arrived.append(None),
            later=later,
            ended=lambda: ended.append(None),
        )
        incoming.start()
        os.write(write_fd, data)
        os.close(write_fd)
        assert eventually(lambda: len(arrived) >= 2)  # the bytes, and their end
        return incoming, ended

    yield send
    for fd in fds:
        os.close(fd)


DATA = b"one\ntwo\n" + b"x" * 200 + b"\nlast"
LINES = [b"one", b"two", None, b"last"]


def test_without_an_event_loop_all_lines_are_handled_at_once(sent):
    server = Lines()
    incoming, ended = sent(DATA, lambda _: False)
    incoming.drain(server, lambda: False, pytest.fail)
    assert (server.seen, ended) == (LINES, [None])


def test_with_an_event_loop_lines_are_handled_in_turns(sent, monkeypatch):
    """Here each step takes one: to split what has come, each line, and each mark of an end."""
    monkeypatch.setattr(off_loop, "TURN_SECONDS", -1)
    server, due = Lines(), []
    incoming, ended = sent(DATA, lambda function: due.append(function) is None)
    counts = []
    while not ended:
        incoming.drain(server, lambda: False, "again")
        counts.append(len(server.seen))
    assert (server.seen, due) == (LINES, ["again"] * len(counts))
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) == 1


def test_within_a_turn_all_lines_are_handled(sent, monkeypatch):
    monkeypatch.setattr(off_loop, "TURN_SECONDS", 60)
    server = Lines()
    incoming, ended = sent(DATA, pytest.fail)
    incoming.drain(server, lambda: False, pytest.fail)
    assert (server.seen, ended) == (LINES, [None])


def test_a_chunk_of_many_lines_is_split_piece_by_piece(sent, monkeypatch):
    """An empty line is no message, but has to be looked for: 64 KiB of them took 60 ms."""
    monkeypatch.setattr(off_loop, "TURN_SECONDS", -1)
    server, due = Lines(), []
    incoming, ended = sent(b"\n" * 20_000 + b"{}\n" * 5_000, lambda function: due.append(function) is None)
    while not ended:
        incoming.drain(server, lambda: False, "again")
    assert server.seen == [b"{}"] * 5_000
    assert len(due) > 5_000 + 20


def test_no_line_is_handled_while_the_server_is_busy_or_once_the_daemon_stops(sent):
    server = Lines()
    incoming, ended = sent(DATA, lambda _: False)
    server.busy = True
    incoming.drain(server, lambda: False, pytest.fail)
    server.busy = False
    incoming.drain(server, lambda: True, pytest.fail)
    assert (server.seen, ended) == ([], [])
