"""``image.generate`` and ``image.edit`` from the call to the queue: every check that needs no engine, in the contract's
order."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from locara_protocol.image_messages import EditParams, GenerateOptions, GenerateParams
from locara_protocol.messages import U32_MAX
from locara_sidecar.daemon import resolve, source_images
from locara_sidecar.daemon.generation import Generation, Order
from locara_sidecar.daemon.source_images import SourceImages

if TYPE_CHECKING:
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.jobs import Job
    from locara_sidecar.daemon.turns import Shared, Turns


class ImageCalls:
    """The handlers; each checks a call and queues it, and its answer comes later."""

    def __init__(self, shared: Shared, turns: Turns) -> None:
        self._shared = shared
        self._models = shared.models
        self._turns = turns

    def generate(self, call: Call, params: GenerateParams) -> None:
        """:raises RpcError: for whatever the checks find."""
        options = params.options or GenerateOptions()
        output = resolve.check_request(params)
        root = output.root if output.save else None
        wanted = self._models.wanted(options.model, lambda entry: "text-to-image", root=root)
        grant = self._models.authorize(call, wanted)
        entry = self._models.choose(grant.models, explicit=options.model is not None)
        order = Order(call, params, entry, grant, output, _random_seed(options.count or 1), time.monotonic())
        self._accept(call, order)

    def edit(self, call: Call, params: EditParams) -> None:
        """:raises RpcError: for whatever the checks find; a file that cannot be used is told a moment later."""
        options = params.options or GenerateOptions()
        output = resolve.check_request(params)
        named = source_images.check_forms(params)
        root = output.root if output.save else None
        wanted = self._models.wanted(options.model, lambda entry: entry.edit_modality, root=root, sources=named)
        grant = self._models.authorize(call, wanted)
        entry = self._models.choose(grant.models, explicit=options.model is not None)
        sources = SourceImages(params, grant.sources)
        order = Order(call, params, entry, grant, output, _random_seed(options.count or 1), time.monotonic(), sources)
        job = self._accept(call, order)
        if sources.named:
            self._shared.start_task(self._open, job, sources)

    def _accept(self, call: Call, order: Order) -> Job:
        options = order.params.options
        self._models.check_engine(options and options.engine, order.entry)
        order.resolve(self._models, job="check", digest="")
        if order.sources is not None:
            order.sources.check_sent()
        return self._turns.accept(call, order.entry.id, lambda job: Generation(job, order, self._shared))

    async def _open(self, job: Job, sources: SourceImages) -> None:
        try:
            await sources.open()
        except Exception as error:  # noqa: BLE001 -- the unforeseen becomes the call's answer, too
            self._turns.fail(job, error)


def _random_seed(count: int) -> int:
    """A seed from which ``count`` images can be counted up."""
    return int.from_bytes(os.urandom(8)) % (U32_MAX + 2 - count)
