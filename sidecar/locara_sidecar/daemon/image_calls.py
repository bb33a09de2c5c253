"""``image.generate`` from the call to the queue: every check that needs no engine, in the contract's order."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from locara_protocol.messages import U32_MAX, GenerateOptions, GenerateParams
from locara_sidecar.daemon import resolve
from locara_sidecar.daemon.generation import Generation, Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.jobs import Job
    from locara_sidecar.daemon.model_choice import ModelChoice
    from locara_sidecar.daemon.turns import Turns


class ImageCalls:
    """The handlers.

    :param work_of: makes the work of a job's order.
    """

    def __init__(self, models: ModelChoice, turns: Turns, work_of: Callable[[Job, Order], Generation]) -> None:
        self._models = models
        self._turns = turns
        self._work_of = work_of

    def generate(self, call: Call, params: GenerateParams) -> None:
        """Check a call in the contract's order and queue it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        options = params.options or GenerateOptions()
        output = resolve.check_request(params)
        wanted = self._models.wanted(options.model, root=output.root if output.save else None)
        grant = self._models.authorize(call, wanted)
        entry = self._models.choose(grant.models, explicit=options.model is not None)
        self._models.check_engine(options.engine, entry)
        order = Order(params, entry, grant, output, _random_seed(options.count or 1), time.monotonic())
        order.resolve(self._models, job="check", digest="")
        self._turns.accept(call, entry.id, lambda job: self._work_of(job, order))


def _random_seed(count: int) -> int:
    """A seed from which ``count`` images can be counted up."""
    return int.from_bytes(os.urandom(8)) % (U32_MAX + 2 - count)
