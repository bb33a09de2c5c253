"""Log records of the engine's own code reach the daemon; those of libraries do not."""

import logging

import pytest

from locara_sidecar.engine import worker


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
    ],
)
def test_an_engine_that_is_installed_is_not_said_to_be_missing(error, said):
    assert worker._why_not_imported(error, "torch").startswith(said)
