"""What all diffusers families share: opening a folder, loading and dropping components, decoding.

A component that is not loaded still exists as a *shell*: the module on torch's ``meta`` device, with its configuration
and types but without memory. A pipeline is built around the components for each call, which takes a millisecond, so
that none keeps a dropped component alive. A family adds its table of components and how diffusers' pipeline encodes and
denoises.
"""

from __future__ import annotations

import contextlib
import math
import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from locara_sidecar.engine.drawing.family import Family
from locara_sidecar.engine.drawing.prompts import unfit
from locara_sidecar.engine.drawing.source import painted_patches
from locara_sidecar.engine.folder import folder_check, model_folder
from locara_sidecar.engine.torch_engine import devices, readers, strips, texts
from locara_sidecar.engine.torch_engine.autoencoders import autoencoder
from locara_sidecar.engine.torch_engine.autoencoders.previews import Previews
from locara_sidecar.engine.torch_engine.denoising import compiled, step_cache, unchanged
from locara_sidecar.engine.torch_engine.denoising.hooks import drawing_from, observed_steps
from locara_sidecar.engine.torch_engine.tensors import weights
from locara_sidecar.machine import plan

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from locara_sidecar.engine.drawing.family import CheckedFolder, Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.engine.torch_engine.families.family import OpenContext
    from locara_sidecar.ipc.frames import JobSpec
    from locara_sidecar.machine.plan import Part
    from locara_sidecar.machine.supported import Tokenizer

_WRONG = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    ImportError,
    OSError,
    SafetensorError,
    StrictDataclassError,
)
"""What the libraries raise for invalid configurations or weights."""


class Pipelines(NamedTuple):
    """diffusers' pipeline classes: from text alone, from a picture, and from a picture and a mask."""

    text: Any
    image: Any
    inpaint: Any


class DiffusersFamily(Family):
    """Base class of this engine's families.

    A subclass sets the class variables and defines ``encode`` and ``denoise``.
    """

    engine = "torch"
    networks: ClassVar[tuple[Any, ...]]
    """The classes of the encoders, the denoiser and the autoencoder, if it is not AutoencoderKL."""
    stand_ins: ClassVar[Mapping[str, str]] = {}
    """The names of classes that folders have, and of those in :attr:`networks` that run in their place."""
    pipelines: ClassVar[Pipelines]
    scheduler_classes: ClassVar[Mapping[str, Any]] = {
        "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler
    }
    """diffusers' scheduler classes by name. A folder's own scheduler must be one of them."""

    _context: OpenContext

    def __init__(self, context: OpenContext, read: CheckedFolder, tokenizers: dict[str, Any]) -> None:
        super().__init__(context, read, tokenizers)
        self._scheduler_config = read.scheduler
        self._parts = dict.fromkeys(self.row.optional) | tokenizers
        self._parts["scheduler"] = self._made_scheduler(read.scheduler, None)
        context.checkpoint()
        self._shells = {name: self._shell(name) for name in self._components}
        self.previews = Previews(context.folder, lambda: self.module(self.decoder))

    @classmethod
    def _tokenizer(cls, folder: Path, name: str, kind: Tokenizer) -> tuple[Any, int]:
        tokenizer = readers.open_tokenizer(folder, name, kind)
        readers.reader_of(kind, tokenizer, max_sequence_length=1).starts(unfit.TRIAL)
        return tokenizer, readers.highest_id(tokenizer)

    # --- the scheduler -------------------------------------------------------------------

    def use_scheduler(self, name: str) -> None:
        self._parts["scheduler"] = self._made_scheduler(self._scheduler_config, name)

    @classmethod
    def _made_scheduler(cls, described: dict[str, Any], name: str | None) -> Any:
        """Create a scheduler.

        :raises EngineError: IntegrityError if diffusers rejects the configuration.
        """
        try:
            return cls._scheduler_of(described, name)
        except _WRONG as error:
            raise model_folder.broken(folder_check.SCHEDULER, "it is not a valid scheduler configuration") from error

    @classmethod
    def _scheduler_of(cls, described: dict[str, Any], name: str | None) -> Any:
        """Create diffusers' scheduler of the catalogue's ``name``, or the folder's own if it is None."""
        del name
        return cls.scheduler_classes[described["_class_name"]].from_config(described)

    # --- components ----------------------------------------------------------------------

    @property
    def grid(self) -> int:
        return self._factor

    def _part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def _is_wide(self, name: str, key: str) -> bool:
        if name == self.decoder:
            return autoencoder.leaves_range(self._shells[name])
        return not weights.precise(self._shells[name]).isdisjoint(key.split("."))

    def module(self, name: str) -> Any:
        """Return the loaded component, or its shell."""
        return self._loaded.get(name, self._shells[name])

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [
            readers.reader_of(kind, self._parts[name], max_sequence_length)
            for name, kind in self.row.tokenizers.items()
            if self._parts[name] is not None
        ]

    def _build(self, name: str, progress: model_folder.Progress) -> Any:
        module, context = self._shell(name), self._context
        bits = plan.bits(self._part(name), context.quantization)
        with self._blaming(name):
            weights.fill(module, self._components[name], self._dtype(name), context.device, progress, bits)
        self._fit(name, module)
        blocks: Sequence[nn.Module] = ()
        if name == self.denoiser and context.compiled:
            blocks = compiled.compile_blocks(module)
        elif name == self.denoiser:
            unchanged.describe_processors(module)
        context.checkpoints.install(module, blocks)
        return module

    def _fit(self, name: str, module: Any) -> None:
        """Change a loaded component whose values would leave the range of the job's type."""

    def _dtype(self, name: str) -> torch.dtype:
        """The type that a component computes in: the job's, or a wider one for Qwen3, which leaves float16's range."""
        narrow = self._context.dtype == torch.float16
        return torch.bfloat16 if narrow and self.row.taps and name in self.row.encoders else self._context.dtype

    def require_fit(self) -> None:
        for name, component in self._components.items():
            weights.require_fit(self._shells[name], component)

    def _release(self) -> None:
        devices.release(self._context.device)

    def _shell(self, name: str) -> nn.Module:
        component = self._components[name]
        wanted = self.stand_ins.get(component.class_name, component.class_name)
        cls = next(cls for cls in (*self.networks, AutoencoderKL) if cls.__name__ == wanted)
        with self._blaming(name):
            shell = weights.shell(cls, component, self._dtype(name))
        if self.row.taps and name in self.row.encoders:
            texts.keep_read_layers(shell, self.row)
        return shell

    def _blaming(self, name: str) -> _Blame:
        return _Blame(name, self._context.device)

    # --- for the subclasses --------------------------------------------------------------

    def pipeline(self, cls: Any) -> Any:
        """Create diffusers' pipeline ``cls`` from the loaded components and shells for the rest. Do not keep it."""
        # otherwise diffusers would ask the components for the device, possibly a shell
        pinned = type(cls.__name__, (cls,), {"_execution_device": torch.device(self._context.device)})
        pipe = pinned(**self._parts | {name: self.module(name) for name in self._components})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def scheduler(self) -> Any:
        """The scheduler that :meth:`pipeline` uses."""
        return self._parts["scheduler"]

    def way(self, spec: JobSpec, source: Source | None) -> tuple[Any, dict[str, Any]]:
        """Return the class of the pipeline for a job, and the arguments that describe the edit."""
        if source is None:
            return self.pipelines.text, {}
        strength = 1.0 if source.strength is None else max(source.strength, self.least_strength(spec.steps))
        edit = {"image": source.image, "strength": strength}
        if source.mask is None:
            return self.pipelines.image, edit
        # the pipelines look at one pixel of each patch
        painted = painted_patches(source.mask, self._factor)
        patches = Image.fromarray(painted.astype(np.uint8) * 255)
        return self.pipelines.inpaint, edit | {"mask_image": patches.resize(source.mask.size, Image.Resampling.NEAREST)}

    @property
    def _factor(self) -> int:
        """Pixels of the image per latent pixel, along each side."""
        return 2 ** (len(self.module(self.decoder).config.block_out_channels) - 1)

    def least_strength(self, steps: int) -> float:
        """Return the lowest strength at which one of ``steps`` still runs; below it one or none would."""
        return min(1.0, math.nextafter(1.0 / steps, 2.0)) if self.row.rounds_down else 0.5 / steps

    def sample(self, cls: Any, task: Denoising, **arguments: Any) -> torch.Tensor:
        """Run diffusers' pipeline ``cls`` and return the latent in the shape that leaves the loop."""
        with (
            self._decoding(tiled=task.spec.tiling == "on"),  # an edit encodes its source inside the pipeline
            drawing_from(task.noise, cls.__module__, autoencoder.MODULE, *self._drawing_schedulers()),
            observed_steps(self.scheduler, task.on_step),
            unchanged.computed_once(self.module(self.denoiser)),
            self._at(task.spec.speed),
        ):
            result = self.pipeline(cls)(
                **arguments, num_inference_steps=task.spec.steps, output_type="latent", return_dict=False
            )
        return cast("torch.Tensor", result[0])

    def _drawing_schedulers(self) -> list[str]:
        """Return the scheduler's module, if it draws noise."""
        module = type(self.scheduler).__module__
        return [module] if hasattr(sys.modules[module], "randn_tensor") else []

    @contextlib.contextmanager
    def _at(self, speed: str) -> Generator[None]:
        """Within the block, run the denoiser at ``speed``."""
        denoiser = self.module(self.denoiser)
        if speed == "exact":
            yield
            return
        with compiled.aside(denoiser), step_cache.caching(denoiser, speed):
            yield

    # --- pixels --------------------------------------------------------------------------

    def decode(self, latent: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        with self._decoding(tiled=tiled):
            return autoencoder.decoded(self.module(self.decoder), latent)

    def _decoding(self, *, tiled: bool) -> contextlib.AbstractContextManager[None]:
        """Within the block, the autoencoder works in strips if ``tiled``."""
        return strips.in_strips(self.module(self.decoder)) if tiled else contextlib.nullcontext()

    def to_image(self, pixels: torch.Tensor) -> Any:
        return cast("Any", VaeImageProcessor()).postprocess(pixels, output_type="pil")[0]


class _Blame:
    """Turns exceptions of the libraries while component ``name`` is built into an EngineError naming its file."""

    def __init__(self, name: str, device: str) -> None:
        self._name = name
        self._device = device

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        del kind, trace
        if isinstance(error, _WRONG):
            if fault := devices.memory_fault(error, self._device):
                raise fault from error
            raise model_folder.broken(f"{self._name}/config.json", "it does not match the weights beside it") from error
