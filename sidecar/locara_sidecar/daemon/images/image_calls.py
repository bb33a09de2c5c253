"""``image.generate`` and ``image.edit`` from the call to the queue: all checks that need no engine, in the contract's
order.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from locara_protocol.image_messages import EditParams, GenerateOptions, GenerateParams
from locara_protocol.messages import U32_MAX
from locara_sidecar.daemon.images import resolve, source_images
from locara_sidecar.daemon.images.generation import Generation, GenerationRequest
from locara_sidecar.daemon.images.source_images import SourceImages

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.capability.files.picked import PickedTarget
    from locara_sidecar.daemon.images.picked_files import PickedFiles
    from locara_sidecar.daemon.jobs.job_runner import JobContext, JobRunner
    from locara_sidecar.daemon.jobs.jobs import Job
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.models.catalogue import Entry


class ImageCalls:
    """The handlers; each checks a call and queues it, and its answer comes later."""

    def __init__(self, shared: JobContext, runner: JobRunner, picked: PickedFiles) -> None:
        self._shared = shared
        self._gate = shared.gate
        self._picked = picked
        self._runner = runner

    def generate(self, call: Call, params: GenerateParams) -> None:
        """Queue a call.

        :raises RpcError: for whatever the checks find.
        """
        output = resolve.check_request(params)
        asked = params.options and params.options.model
        picked = self._picked.uses(output.handle, {})
        wanted = self._gate.wanted(asked, lambda _: "text-to-image", root=_root(output), picked=picked)
        grant = self._gate.authorize(call, wanted)
        self._accept(call, params, output, grant, self._target(output))

    def edit(self, call: Call, params: EditParams) -> None:
        """Queue a call.

        :raises RpcError: for whatever the checks find; an unusable file is reported a moment later.
        """
        output = resolve.check_request(params)
        named, handles = source_images.check_forms(params)
        asked = params.options and params.options.model
        picked = self._picked.uses(output.handle, handles)
        kind = self._kind_of_edit(asked, len(params.images or ()))
        wanted = self._gate.wanted(asked, kind, root=_root(output), sources=named, picked=picked)
        grant = self._gate.authorize(call, wanted)
        target = self._target(output)
        sources = SourceImages(params, grant.sources, self._picked.sources(handles))
        job = self._accept(call, params, output, grant, target, sources)
        if sources.named:
            self._shared.start_task(self._open, job, sources)

    def _kind_of_edit(self, asked: str | None, pictures: int) -> Callable[[Entry], str | None]:
        """Return the modality that a model needs for an edit of that many pictures. Of the models that may be chosen,
        only those that accept that many count, if there are any.
        """
        enough = any(entry.references >= pictures for entry in self._gate.catalogue)
        least = pictures if asked is None and enough else 0
        return lambda entry: entry.edit_modality if entry.references >= least else None

    def _target(self, output: resolve.Output) -> PickedTarget | None:
        return None if output.handle is None else self._picked.target(output.handle, output.mime_type)

    def _accept(
        self,
        call: Call,
        params: GenerateParams,
        output: resolve.Output,
        grant: Grant,
        target: PickedTarget | None,
        sources: SourceImages | None = None,
    ) -> Job:
        options = params.options or GenerateOptions()
        entry = self._gate.choose(grant.models, explicit=options.model is not None)
        self._gate.check_engine(options.engine, entry)
        engine = "auto" if self._gate.fake else self._gate.engine
        seed = _random_seed(options.count or 1)
        resolved = resolve.resolve(params, entry, engine=engine, seed=seed, output=output)
        if sources is not None:
            sources.check_sent()
        request = GenerationRequest(call, params, entry, grant, resolved, time.monotonic(), sources, target)
        weight = 0 if sources is None else sources.sent
        return self._runner.accept(call, entry.id, lambda job: Generation(job, request, self._shared), weight)

    async def _open(self, job: Job, sources: SourceImages) -> None:
        try:
            await sources.open()
        except Exception as error:  # noqa: BLE001 -- the unforeseen becomes the call's answer, too
            self._runner.fail(job, error)


def _root(output: resolve.Output) -> str | None:
    """Return the root to save into, if there is one."""
    return output.root if output.save and output.handle is None else None


def _random_seed(count: int) -> int:
    """Return a random seed that leaves room for ``count`` images."""
    return int.from_bytes(os.urandom(8)) % (U32_MAX + 2 - count)
