"""The lists of planted faults (``make planted-faults``) fit the code as it is."""

from pathlib import Path

import pytest

from faults.run import ROOT, Copy, read

FAULTS = read()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.area}: {fault.breaks}")
def test_what_a_fault_changes_is_there_once_and_so_are_its_tests(fault):
    for change in fault.changes:
        assert change.stands_once(ROOT), f"{change.old!r} is not once in {change.file}"
        assert change.old != change.new
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists()
        assert not name or f"def {name}(" in (ROOT / path).read_text()


def test_no_sentence_stands_twice():
    sentences = [fault.breaks for fault in FAULTS]
    assert len(set(sentences)) == len(sentences)


def test_a_fault_fails_its_tests_and_is_taken_out_again(tmp_path):
    fault = next(fault for fault in FAULTS if fault.breaks == "blank lines are skipped")
    copy = Copy(Path(tmp_path))
    before = (tmp_path / fault.changes[0].file).read_bytes()
    assert copy.test(fault.tests, "blank")[0] == 0
    status, failed = copy.test_with(fault._replace(select="blank"))
    assert (status, failed) == (1, "protocol/test_framing.py::test_blank_lines_are_skipped")
    assert (tmp_path / fault.changes[0].file).read_bytes() == before
