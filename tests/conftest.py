"""What every test shares: a way to spawn the real daemon as a host would."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from locara_sidecar.engine import process
from support.host import Hosts


@pytest.fixture
def hosts(tmp_path):
    """Spawns daemons; all of them are gone when the test ends."""
    made = Hosts(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard():
    """A shell has its background jobs ignore SIGINT, and all that they start; what is started here must hear it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _this_process_stays_as_it_is():
    """Who starts an engine asks for short slices of the processor, and what it starts later has them too. This process
    does not, because daemons that it starts are looked at (``tests/engine/test_priority.py``)."""
    patch = pytest.MonkeyPatch()
    patch.setattr(process, "priority", SimpleNamespace(answer_promptly=lambda: None))
    yield
    patch.undo()
