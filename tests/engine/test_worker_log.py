"""Log records of the engine's own code reach the daemon; those of libraries do not."""

import logging

import pytest

from locara_sidecar.engine import worker
from locara_sidecar.machine import bundle


@pytest.fixture
def own():
    logger = logging.getLogger("locara_sidecar")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def test_only_our_own_records_are_forwarded(own):
    sent = []
    worker._forward_logs(sent.append)
    logging.getLogger("locara_sidecar.engine.drawing.warm").info("memory plan: %s", "whole")
    logging.getLogger("locara_sidecar.engine.drawing.warm").debug("too small")
    logging.getLogger("transformers").error("a prompt, perhaps")
    assert [(log.level, log.logger, log.msg) for log in sent] == [("info", "drawing.warm", "memory plan: whole")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "torch cannot be imported; install it with: pip",
        ),
        (ImportError(name="torch"), "torch cannot be imported; install it with: pip"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object\nmore", name="_C"),
            "_C is installed but cannot be loaded (libtorch_cpu.so: failed to map segment from shared object)",
        ),
        (ModuleNotFoundError(name="pickle"), "pickle, a part of Python, cannot be imported: its files are missing"),
        (ModuleNotFoundError(name="xml.dom"), "xml.dom, a part of Python, cannot be imported: its files are missing"),
        (
            ModuleNotFoundError(name="locara_sidecar.engine.torch_engine"),
            "locara_sidecar.engine.torch_engine, a part of locara-sidecar, cannot be imported",
        ),
        (ImportError("a library is missing", name="_ssl"), "_ssl, a part of Python, cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_named_with_what_would_help(error, said):
    assert worker._why_not_imported(error, "torch").startswith(said)


def test_a_shipped_folder_tells_its_user_nothing_of_pip(monkeypatch, tmp_path):
    for name in (bundle.SUMS, bundle.FACTS):
        (tmp_path / name).touch()
    monkeypatch.setattr(bundle.sys, "prefix", str(tmp_path / "python"))
    said = worker._why_not_imported(ModuleNotFoundError(name="torch"), "torch")
    assert said.startswith("torch cannot be imported; this folder was built without it; ")
    assert said.endswith("make bundle ENGINE=torch")
