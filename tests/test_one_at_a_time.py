"""The lock behind the mark ``alone`` keeps others out, and those who share it cannot starve the one who wants it."""

import os
import subprocess
import sys
import time

import pytest

from support.one_at_a_time import Turnstile

pytest.importorskip("fcntl")

SHARING = """
import pathlib, sys, time
from support.one_at_a_time import Turnstile
folder = pathlib.Path(sys.argv[1])
while True:
    with Turnstile(folder).held(alone=False):
        (folder / sys.argv[2]).touch()
        time.sleep(float(sys.argv[3]))
        (folder / sys.argv[2]).unlink()
"""


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_who_wants_the_lock_alone_gets_it_though_others_share_it_without_a_pause_and_keeps_them_out(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", SHARING, str(tmp_path)]
    names = {"one": "0.113", "other": "0.217", "third": "0.331"}  # somebody holds it nearly always
    sharing = [subprocess.Popen([*words, name, seconds], env=env) for name, seconds in names.items()]
    try:
        until(lambda: all((tmp_path / name).exists() for name in names))  # all hold it at the same time
        for _ in range(3):
            began = time.monotonic()
            with Turnstile(tmp_path).held(alone=True):
                assert time.monotonic() - began < 1.5
                for _ in range(20):
                    assert not any((tmp_path / name).exists() for name in names)
                    time.sleep(0.005)
        until(lambda: any((tmp_path / name).exists() for name in names))
    finally:
        for process in sharing:
            process.kill()
            process.wait()
