"""The record of decisions is bounded and ordered, and can be read in pages."""

from typing import Literal

import msgspec
import pytest

from locara_sidecar.capability.audit import AuditLog


def fill(log: AuditLog, count: int, decision: Literal["allow", "deny"] = "allow") -> None:
    for number in range(count):
        log.record(capability="models", resource="pocket", decision=decision, reason="granted", request_id=number)


def test_the_oldest_go_first_and_numbers_have_no_holes():
    log = AuditLog(capacity=10)
    fill(log, 25)
    assert [entry.seq for entry in log.entries()] == list(range(16, 26))


def test_a_flood_of_one_kind_leaves_half_of_the_record_to_the_other():
    for kind, flood in (("deny", "allow"), ("allow", "deny")):
        log = AuditLog(capacity=10)
        fill(log, 7, kind)
        fill(log, 1000, flood)
        assert [entry.seq for entry in log.entries()] == [3, 4, 5, 6, 7, *range(1003, 1008)]
        fill(log, 1000, kind)
        assert [entry.seq for entry in log.entries()] == [*range(1003, 1008), *range(2003, 2008)]
        assert [entry.seq for entry in log.entries(limit=3, after=1006)] == [1007, 2003, 2004]


def test_a_few_of_one_kind_take_no_more_room_than_they_need():
    log = AuditLog(capacity=10)
    fill(log, 2, "deny")
    fill(log, 1000)
    assert [entry.seq for entry in log.entries()] == [1, 2, *range(995, 1003)]


@pytest.mark.parametrize(
    ("limit", "after", "expected"),
    [
        (3, None, [8, 9, 10]),
        (3, 4, [5, 6, 7]),
        (None, 8, [9, 10]),
        (0, None, []),
        (99, 10, []),
        (99, None, list(range(1, 11))),
    ],
)
def test_pages(limit: int | None, after: int | None, expected: list[int]):
    log = AuditLog()
    fill(log, 10)
    assert [entry.seq for entry in log.entries(limit, after)] == expected


def test_an_entry_is_wire_ready_and_short():
    log = AuditLog()
    entry = log.record(capability="models", resource="x" * 9999, decision="deny", reason="notDeclared", request_id="a")
    wire = msgspec.to_builtins(entry)
    assert list(wire) == ["seq", "time", "capability", "resource", "decision", "reason", "requestId"]
    assert wire["time"].endswith("Z")
    assert len(wire["resource"]) < 300
