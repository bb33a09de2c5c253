"""On a simulated Mac the machine stays awake while a job runs; on other systems nothing is called."""

import sys
from types import SimpleNamespace

import pytest

from locara_sidecar.machine.macos import awake


class Mac:
    """Records the calls; with ``refuses`` the system grants no assertion."""

    def __init__(self, refuses=False):
        self.asked = []
        self._refuses = refuses

    def keep_awake(self, reason):
        if self._refuses:
            raise OSError("no")
        self.asked.append(reason)
        return 7

    def let_sleep(self, token):
        self.asked.append(token)


@pytest.mark.parametrize("raised", [None, KeyError, KeyboardInterrupt])
def test_the_assertion_is_held_for_the_block_and_given_back_however_it_ends(monkeypatch, raised):
    monkeypatch.setattr(sys, "platform", "darwin")
    mac = Mac()
    try:
        with awake.awake(mac):
            assert mac.asked == [awake.REASON]
            if raised:
                raise raised
    except (KeyError, KeyboardInterrupt):
        pass
    assert mac.asked == [awake.REASON, 7]


def test_where_it_is_refused_the_job_runs_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    mac = Mac(refuses=True)
    with awake.awake(mac):
        pass
    assert mac.asked == []


@pytest.mark.skipif(sys.platform == "darwin", reason="here it is asked")
def test_elsewhere_nothing_is_asked():
    mac = Mac()
    with awake.awake(mac), awake.awake():
        pass
    assert mac.asked == []


def test_every_job_of_an_engine_runs_awake(monkeypatch, spec):
    from locara_sidecar.engine import worker

    monkeypatch.setattr(sys, "platform", "darwin")
    mac = Mac()
    monkeypatch.setattr("locara_sidecar.machine.macos.darwin.Darwin", lambda: mac)
    seen = []

    class Ended(Exception):
        pass

    def run(*_):
        seen.append(list(mac.asked))
        raise Ended

    monkeypatch.setattr(worker, "run_job", run)
    engine = worker.Worker(SimpleNamespace(send=None))
    engine._jobs.put((spec(), None))
    with pytest.raises(Ended):
        engine._work(None)
    assert seen == [[awake.REASON]]
    assert mac.asked == [awake.REASON, 7]
