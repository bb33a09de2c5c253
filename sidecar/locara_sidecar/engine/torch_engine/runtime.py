"""The torch engine: one model loaded and kept warm, one job at a time, images made one by one.

Owned here: what is loaded (path, digest, precision and quantization are its key), the embeddings that are kept, the
order of phases and which failures get a name. The arithmetic is the families' and diffusers' (``sd3.py``).
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from locara_sidecar.engine.noise import NoiseStream
from locara_sidecar.engine.runtime import Control, Emit, EngineFault, ImageEvent, PhaseEvent, StepEvent, Summary
from locara_sidecar.engine.torch_engine import devices, environment
from locara_sidecar.engine.torch_engine.family import Embedding, Family, LoadContext
from locara_sidecar.engine.torch_engine.hooks import Checkpoints
from locara_sidecar.engine.torch_engine.truncation import truncation_warning

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from locara_protocol.messages import PreviewDecoder
    from locara_sidecar.engine.frames import JobSpec

FAMILIES = {"sd3": ("locara_sidecar.engine.torch_engine.sd3", "Sd3")}
"""Catalogue family to the module and class that run it; imported when first used."""

_EMBEDDINGS_KEPT = 16


class _Key(NamedTuple):
    path: str
    digest: str
    precision: str
    quantization: str


class _Loaded:
    """A model and the embeddings it has made, the latest used last."""

    def __init__(self, key: _Key, family: Family) -> None:
        self.key = key
        self.family = family
        self._embeddings: OrderedDict[tuple[str, int], Embedding] = OrderedDict()

    def known(self, text: str, length: int) -> bool:
        return (text, length) in self._embeddings

    def embedding(self, text: str, length: int) -> Embedding:
        """The text's embedding, encoded only if it is not known."""
        if not self.known(text, length):
            self._embeddings[text, length] = self.family.encode(text, length)
            if len(self._embeddings) > _EMBEDDINGS_KEPT:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end((text, length))
        return self._embeddings[text, length]


class TorchRuntime:
    """:class:`~locara_sidecar.engine.runtime.Runtime` on torch and diffusers.

    :param scratch: a folder that the libraries may write caches to.
    """

    name = "torch"

    def __init__(self, scratch: str) -> None:
        environment.prepare(scratch)
        self.device = devices.choose_device()
        self._checkpoints = Checkpoints(self.device)
        self._loaded: _Loaded | None = None

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`; a model that is loaded stays loaded, whatever happens to the job.

        :raises JobCancelled: from a checkpoint, with the device idle.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError, InsufficientMemory or InvalidOutput.
        """
        quantization = _quantization(spec)
        precision = devices.choose_precision(spec.model.precision, self.device)
        key = _Key(spec.model.path, spec.model.digest, precision, quantization)
        try:
            with torch.no_grad(), self._checkpoints.armed(control):
                loaded = self._load(spec, key, emit, control)
                warnings = self._make_images(spec, loaded.family, self._encode(spec, loaded, emit, control), emit, control)
        except (RuntimeError, MemoryError) as error:
            if fault := devices.memory_fault(error, self.device):
                raise fault from error
            raise
        finally:
            devices.synchronise(self.device)
        return Summary(quantization=quantization, precision=precision, warnings=warnings)

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """See :meth:`Runtime.preview`. On the job's own thread a full decode ends early if the job is cancelled.

        :raises JobCancelled: in that case.
        """
        return None if self._loaded is None else self._loaded.family.previews.decode(x0, mode, max_side)

    def peak_memory(self) -> int:
        return devices.peak_memory()
