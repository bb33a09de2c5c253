"""Every fixture of fixtures/jsonrpc, piped to the real daemon."""

import pytest

from locara_conformance.cases import load
from locara_conformance.groups.replay import replay
from locara_conformance.lab import Lab
from support.host import command


@pytest.mark.parametrize("file", sorted({case.file for case in load()}))
def test_the_daemon_answers_every_fixture_as_the_contract_says(file):
    lab = Lab(command("--engine", "fake"), timeout=20)
    try:
        replay(lab, file)
    finally:
        lab.close()
    assert lab.violations == {}
