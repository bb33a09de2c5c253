"""The language-neutral cases, answered by the protocol package alone."""

import pytest

from support import replay

CASES = replay.load_cases()


def test_there_are_cases_for_every_row():
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.needs in ("protocol", "sidecar") for case in CASES)


@pytest.mark.parametrize("case", [case for case in CASES if case.needs == "protocol"], ids=lambda case: case.name)
def test_case_is_answered_as_expected(case):
    assert replay.problem(case, replay.answer_in_process(case)) is None, case.description
