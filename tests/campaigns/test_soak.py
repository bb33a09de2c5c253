"""The soak campaign with the fake engine, short, and with a fault planted that it must find."""

import sys

import pytest

from campaigns.soak import rows_of, soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def missed(plant=""):
    """Return the missed goals, except for memory, which settles only after more rounds than these."""
    rows = rows_of("", *soak("fake", 0, 10, 7, plant), 0)
    return [(row.name, row.figure, row.note) for row in rows if not row.met and "memory" not in row.name]


def test_everything_is_answered_as_it_must_be_and_nothing_is_left_behind():
    assert missed() == []


def test_descriptors_that_are_lost_are_noticed():
    assert [name for name, _, _ in missed("descriptors are lost")] == [": descriptors more than after a third"]
