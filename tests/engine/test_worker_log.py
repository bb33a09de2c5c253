"""What the engine's own code logs reaches the daemon; what libraries log does not."""

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
    logging.getLogger("locara_sidecar.engine.warm").info("memory plan: %s", "whole")
    logging.getLogger("locara_sidecar.engine.warm").debug("too small")
    logging.getLogger("transformers").error("a prompt, perhaps")
    assert [(log.level, log.logger, log.msg) for log in sent] == [("info", "warm", "memory plan: whole")]
