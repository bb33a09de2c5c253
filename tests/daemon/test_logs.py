"""The log on stderr is bounded, has one JSON object per line and contains nothing that a user typed."""

import json
import logging

from locara_sidecar.daemon.process import logs


def encoded(**fields):
    return logs._encode("info", "locara.x", "something", fields)


def test_a_record_is_one_line_of_json_with_its_fields():
    record = json.loads(encoded(id=7, kind="X"))
    assert (record["level"], record["logger"], record["msg"]) == ("info", "locara.x", "something")
    assert (record["id"], record["kind"]) == (7, "X")
    assert record["ts"].endswith("Z")


def test_a_record_that_is_too_long_is_cut_and_stays_json():
    line = encoded(text="x" * 20_000)
    assert len(line) < 8192
    assert json.loads(line)["cut"] > 20_000


def test_a_host_that_never_reads_the_log_costs_a_bounded_number_of_lines():
    sink = logs._Sink()  # its thread is not started, so nothing is ever taken out
    for _ in range(5000):
        sink.put(b"x\n")
    assert len(sink._lines) == 1000
    assert sink._dropped == 4000


def test_an_exception_is_told_by_its_type_and_place_never_by_its_text(monkeypatch):
    lines = []
    monkeypatch.setattr(logs._sink, "put", lines.append)
    try:
        raise ValueError("zanzibar")
    except ValueError as error:
        record = logging.LogRecord("locara.x", logging.ERROR, __file__, 1, "failed", None, (ValueError, error, None))
        record.exc_info = (ValueError, error, error.__traceback__)
    logs._Handler().emit(record)
    (line,) = lines
    told = json.loads(line)
    assert told["exception"] == "ValueError"
    assert told["frames"][-1].startswith("test_logs.py:")
    assert b"zanzibar" not in line


def test_a_record_that_cannot_be_encoded_is_counted_and_harms_nobody(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(logs, "_encode", fail)
    monkeypatch.setattr(logs, "_sink", logs._Sink())
    logs._Handler().emit(logging.LogRecord("locara.x", logging.INFO, __file__, 1, "something", None, None))
    assert logs._sink._dropped == 1
