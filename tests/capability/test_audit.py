"""The record of decisions is bounded and ordered, and can be read in pages."""

import msgspec
import pytest

from locara_sidecar.capability.audit import AuditLog


def fill(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.record(capability="models", resource="pocket", decision="allow", reason="granted", request_id=number)


def test_the_oldest_go_first_and_numbers_have_no_holes():
    log = AuditLog(capacity=10)
    fill(log, 25)
    assert [entry.seq for entry in log.entries()] == list(range(16, 26))


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
