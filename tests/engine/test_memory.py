"""The process's memory in the operating system's own figures."""

import struct
import sys

import pytest

from locara_sidecar.engine import memory


def test_what_is_touched_counts_and_the_peak_stays():
    before = memory.resident()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    during = memory.resident()
    assert during - before > 48 << 20
    del block
    assert memory.peak() >= during - (4 << 20)


def test_a_macs_footprint_is_read_from_its_place():
    # struct rusage_info_v4: ri_uuid, then ri_user_time … ri_runnable_time; the eighth is ri_phys_footprint, the
    # twenty-ninth ri_lifetime_max_phys_footprint
    assert memory.footprints(b"u" * 16 + struct.pack("=35Q", *range(1, 36))) == (8, 29)


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS")
def test_a_mac_tells_its_footprint():
    assert memory._mac_footprints() is not None
