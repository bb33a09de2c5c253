"""What every test shares: a way to spawn the real daemon as a host would."""

from __future__ import annotations

import pytest

from support.host import Hosts


@pytest.fixture
def hosts(tmp_path):
    """Spawns daemons; all of them are gone when the test ends."""
    made = Hosts(tmp_path)
    yield made
    made.close()
