"""A process notices that an update is replacing the files that it came from."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from locara_sidecar.cli.commands import serve
from locara_sidecar.machine import own_files

AGAIN = """
import os, sys
from locara_sidecar.daemon.wire import stdio
from locara_sidecar.machine import own_files
root, mode = sys.argv[1:3]
passed = int(sys.argv[3]) if mode == "passed" else None
own_files._ROOT, own_files._PYTHON = root, os.path.join(root, "python")
own_files._FACTS, own_files._IS_BUNDLE = os.path.join(root, "bundle.json"), mode != "elsewhere"
own_files.QUIET = 0.1
fds = stdio.claim() if mode == "claimed" else (0, 1)
with open(root + ".runs", "a") as file:
    file.write("x")
if mode == "always" or os.path.getsize(root + ".runs") == 1:
    if mode != "alone":
        open(os.path.join(root, "python", "lib", mode + str(os.path.getsize(root + ".runs"))), "w").close()
    if passed is not None:
        from locara_sidecar.capability.descriptors import DescriptorSocket
        claimed = DescriptorSocket(passed)  # from here on no child inherits it
    own_files.start_anew(MemoryError() if mode == "memory" else ImportError("gone"), *fds, passed)
    print("no", file=sys.stderr)
    sys.exit(1)
os.write(fds[1], os.read(fds[0] if passed is None else passed, 100))
assert own_files._COUNTER not in os.environ
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A bundle's folder, as that which this process came from, and the time when it was complete."""
    root = tmp_path / "app"
    (root / "python" / "lib" / "deep").mkdir(parents=True)
    (root / "python" / "lib" / "deep" / "module.py").write_text("")
    (root / "bundle.json").write_text("{}")
    monkeypatch.setattr(own_files, "_ROOT", str(root))
    monkeypatch.setattr(own_files, "_PYTHON", str(root / "python"))
    monkeypatch.setattr(own_files, "_FACTS", str(root / "bundle.json"))
    monkeypatch.setattr(own_files, "_IS_BUNDLE", True)
    monkeypatch.setattr(own_files, "_first", os.stat(root / "python"))
    monkeypatch.setattr(own_files, "_LATE", 0.02)
    time.sleep(0.05)
    return root


def renamed_over(root):
    (root / "new").write_text("")
    (root / "new").rename(root / "python" / "lib" / "deep" / "module.py")


def swapped(root):
    root.rename(root.with_name("old"))
    (root / "python").mkdir(parents=True)
    (root / "bundle.json").write_text("{}")


CHANGES = {
    "renamed over": renamed_over,
    "removed": lambda root: (root / "python" / "lib" / "deep" / "module.py").unlink(),
    "added": lambda root: (root / "python" / "lib" / "deep" / "other.py").write_text(""),
    "swapped": swapped,
    "away": lambda root: root.rename(root.with_name("old")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_any_folder_is_noticed(folder, change):
    since = time.time()
    assert not own_files.are_replaced(since)
    CHANGES[change](folder)
    assert own_files.are_replaced(since)


def test_only_a_bundle_is_watched(folder, monkeypatch):
    """Elsewhere folders change when bytecode is written."""
    monkeypatch.setattr(own_files, "_IS_BUNDLE", False)
    CHANGES["added"](folder)
    assert not own_files.are_replaced(0.0)
    assert own_files.settle(0.0)
    own_files.require_unmoved()


def test_the_end_of_an_update_is_waited_for(folder, monkeypatch):
    monkeypatch.setattr(own_files, "QUIET", 0.2)
    ended = []

    def update():
        for number in range(6):
            time.sleep(0.1)
            (folder / "python" / "lib" / f"{number}.py").write_text("")
        ended.append(time.monotonic())

    thread = threading.Thread(target=update)
    CHANGES["added"](folder)
    thread.start()
    assert own_files.settled_since(time.time() - 0.1)
    assert time.monotonic() - ended[0] >= 0.15
    thread.join()
    folder.rename(folder.with_name("old"))
    assert not own_files.settle(0.3)


def test_another_folder_in_its_place_is_noticed_at_one_look(folder):
    own_files.require_unmoved()
    swapped(folder)
    with pytest.raises(FileNotFoundError):
        own_files.require_unmoved()


@pytest.mark.skipif(sys.platform == "win32", reason="a process keeps its id only elsewhere")
@pytest.mark.parametrize(
    ("mode", "runs", "said"),
    [
        ("moved", "xx", b"a line"),
        ("claimed", "xx", b"a line"),
        ("always", "xxxxx", b""),
        ("alone", "x", b""),  # nothing was replaced
        ("elsewhere", "x", b""),
        ("memory", "x", b""),
    ],
)
def test_a_process_that_an_update_kept_from_starting_starts_anew_with_all_that_its_host_sent(folder, mode, runs, said):
    time.sleep(0.15)
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, folder, mode], input=b"a line", capture_output=True, check=False
    )
    assert folder.with_name("app.runs").read_text() == runs, done.stderr
    assert (done.stdout, done.returncode) == (said, 0 if said else 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no descriptors are passed there")
def test_a_process_that_starts_anew_keeps_the_socket_for_descriptors(folder):
    time.sleep(0.15)
    host, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with host, ours:
        host.send(b"a datagram")
        words = [sys.executable, "-c", AGAIN, folder, "passed", str(ours.fileno())]
        done = subprocess.run(words, capture_output=True, check=False, pass_fds=[ours.fileno()])
    assert folder.with_name("app.runs").read_text() == "xx", done.stderr
    assert (done.stdout, done.returncode) == (b"a datagram", 0), done.stderr


def test_a_daemon_that_starts_anew_says_which_descriptors_it_needs(monkeypatch):
    given = []
    monkeypatch.setattr(serve.stdio, "claim", lambda: (8, 9))
    monkeypatch.setattr(serve, "_prepare", lambda *_: 2)
    monkeypatch.setattr(own_files, "start_anew", lambda _, *fds: given.append(fds))

    def moved():
        raise FileNotFoundError

    monkeypatch.setattr(own_files, "require_unmoved", moved)
    monkeypatch.setattr(serve, "_complain", lambda _, status: status)
    assert serve.run(SimpleNamespace(descriptors=7), 1) == 1
    assert given == [(8, 9, 7)]


def test_a_daemon_that_has_claimed_its_descriptors_is_not_started_anew_without_them(monkeypatch):
    """The new process would have read from the null device and answered on stderr."""
    begun = []
    monkeypatch.setattr(own_files.os, "execv", lambda *words: begun.append(words))
    monkeypatch.setattr(own_files.os, "dup2", lambda *_: None)
    monkeypatch.setattr(own_files, "settle", lambda: True)
    monkeypatch.setattr(own_files, "_moved", [])
    monkeypatch.setattr(serve.stdio, "claim", lambda: (8, 9))

    def fails(*_):
        raise ZeroDivisionError  # nothing that serve.run knows: __main__ gets it

    monkeypatch.setattr(serve, "_prepare", fails)
    monkeypatch.setattr(own_files, "are_replaced", lambda: False)
    with pytest.raises(ZeroDivisionError) as caught:
        serve.run(SimpleNamespace(descriptors=None), 1)
    monkeypatch.setattr(own_files, "are_replaced", lambda: True)  # an update has begun since
    own_files.start_anew(caught.value)
    assert begun == []
    own_files.start_anew(caught.value, 8, 9)
    assert begun


@pytest.mark.parametrize(("hours", "noticed"), [(0, True), (-2, False)])
def test_what_lies_far_in_the_future_was_not_changed_just_now(folder, monkeypatch, hours, noticed):
    """The clock was set back since."""
    CHANGES["added"](folder)
    now = time.time() + 3600 * hours
    monkeypatch.setattr(own_files.time, "time", lambda: now)
    assert own_files.are_replaced(now - 10) is noticed


def caused(cause):
    error = LookupError("no such backend")
    error.__cause__ = cause
    return error


def test_which_errors_are_of_our_own_files(folder):
    ours, theirs = str(folder / "python" / "lib" / "gone.py"), str(folder.parent / "picture.png")
    for number in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
        assert own_files.is_of_ours(OSError(number, "x", ours))
        assert not own_files.is_of_ours(OSError(number, "x", theirs))
    assert own_files.is_of_ours(ImportError("x"))
    assert own_files.is_of_ours(caused(ImportError("x")))
    for other in (OSError(errno.EMFILE, "x", ours), OSError(errno.ENOENT, "x"), ValueError("x"), caused(None), None):
        assert not own_files.is_of_ours(other)
