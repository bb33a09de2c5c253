"""Shared by all tests: spawning the real daemon as a host would, and the marks ``slow`` and ``alone``."""

from __future__ import annotations

import gc
import os
import signal
from types import SimpleNamespace

import hypothesis  # before anything is frozen: it looks at who refers to what, and pytest imports it late
import pytest

from locara_sidecar.daemon.engine_host.transport import process
from support.host import Hosts
from support.one_at_a_time import Turnstile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests share the processor with others; before torch is imported
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the torch engine sets it; MKL reads it at its first product

# on a busy machine examples take long to make, and what they test takes long
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

gc.disable()  # while thousands of tests are collected: 11 s of processor time instead of 16


def pytest_collection_finish():
    """Freeze the objects that exist now: they live until the end, so later garbage collections can skip them."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the cases that ``quick_cases`` does not name as slow, before ``-m`` looks."""
    for item in items:
        if " at 0x" in item.nodeid:  # each worker would collect another test; seen only where several run
            raise pytest.UsageError(f"the name of {item.nodeid} has an address: give its cases ids")
        quick = item.get_closest_marker("quick_cases")
        case = getattr(item, "callspec", None)
        if quick and case and not any(word in case.id for word in quick.args):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """With several workers, run nothing else while a test marked ``alone`` runs."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    shared = item.config._tmp_path_factory.getbasetemp().parent  # shared by all workers
    with Turnstile(shared).held(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture
def hosts(tmp_path):
    """Spawn daemons; all of them are gone when the test ends."""
    made = Hosts(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard():
    """A shell makes its background jobs and their children ignore SIGINT, and ``nohup`` SIGHUP; processes started here
    must not.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN:
        signal.signal(hangup, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _this_process_stays_as_it_is():
    """A process that starts an engine asks for short slices of the processor, and its children inherit them. This
    process does not, because the daemons that it starts are examined (``tests/engine/test_priority.py``)."""
    patch = pytest.MonkeyPatch()
    patch.setattr(process, "priority", SimpleNamespace(answer_promptly=lambda: None))
    yield
    patch.undo()
