"""Reads while links are swapped: none escapes, while the same race against the unsafe way does."""

import sys
import time
from pathlib import Path

import pytest

from campaigns.reading import RacedReads, race_reads, race_reads_naive
from support.granted_folders import RESOLUTIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses fork and an atomic exchange of names")


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_read_gets_out_while_links_are_swapped(tmp_path: Path, resolution: str):
    found = RacedReads()
    started = time.monotonic()
    for attempt in range(20):
        more = race_reads(tmp_path / str(attempt), 2000, resolution)
        found = RacedReads(found.read + more.read, found.refused + more.refused, found.escaped + more.escaped)
        assert not more.other
        if (found.read and found.refused) or time.monotonic() - started > 30:
            break
    assert found.read > 0
    assert found.refused > 0
    assert found.escaped == 0


def test_control_comparing_resolved_paths_does_read_outside(tmp_path: Path):
    """The planted fault: the same race against the unsafe way."""
    assert race_reads_naive(tmp_path, 100_000) is not None
