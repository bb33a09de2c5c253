"""What the host sends is handled line by line, and with an event loop each line in a callback of its own."""

import os

import pytest

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


def test_with_an_event_loop_each_line_has_a_callback_of_its_own(sent):
    server, due = Lines(), []
    incoming, ended = sent(DATA, lambda function: due.append(function) is None)
    for number in range(len(LINES)):
        assert (server.seen, ended) == (LINES[:number], [])
        incoming.drain(server, lambda: False, "again")
    incoming.drain(server, lambda: False, "again")
    assert (server.seen, ended, due) == (LINES, [None], ["again"] * len(LINES))


def test_no_line_is_handled_while_the_server_is_busy_or_once_the_daemon_stops(sent):
    server = Lines()
    incoming, ended = sent(DATA, lambda _: False)
    server.busy = True
    incoming.drain(server, lambda: False, pytest.fail)
    server.busy = False
    incoming.drain(server, lambda: True, pytest.fail)
    assert (server.seen, ended) == ([], [])
