"""What all families over diffusers have in common: opening a folder, loading and dropping components, decoding.

A component that is not loaded is there all the same, as a *shell*: the module on torch's ``meta`` device, with its
configuration and types and no memory. Pipelines are made around what is there, one for each call, so that none of
them keeps a dropped component alive; making one takes a millisecond. A family adds its table of components and how
diffusers' pipeline encodes and denoises.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import torch
from diffusers.image_processor import VaeImageProcessor
from safetensors import SafetensorError

from locara_sidecar.engine import model_folder, plan
from locara_sidecar.engine.parts import parts_of
from locara_sidecar.engine.torch_engine import autoencoder, compiled, devices, readers, step_cache, weights
from locara_sidecar.engine.torch_engine.hooks import drawing_from, observed_steps
from locara_sidecar.engine.torch_engine.previews import Previews

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping

    from torch import nn

    from locara_sidecar.engine.family import Denoising, Family
    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.plan import Part
    from locara_sidecar.engine.source import Source
    from locara_sidecar.engine.torch_engine.family import OpenContext
    from locara_sidecar.engine.truncation import Reader

_WRONG = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, SafetensorError)
"""What the libraries raise for a configuration or weights that make no sense."""


class Network(NamedTuple):
    """A component with weights: the class that runs it; ``encoder`` if it reads text (a transformers class)."""

    cls: Any
    encoder: bool = False

    @property
    def stem(self) -> str:
        """The weight files' name."""
        return "model" if self.encoder else "diffusion_pytorch_model"


class Pipelines(NamedTuple):
    """diffusers' classes for the three ways to an image: from text alone, from a picture, from a picture and a mask."""

    text: Any
    image: Any
    inpaint: Any


class DiffusersFamily:
    """The base of the families; :class:`~locara_sidecar.engine.torch_engine.family.Family` tells what the verbs do.

    A subclass gives the class variables, ``encode`` and ``denoise``.
    """

    index_class: ClassVar[str]
    """``_class_name`` in ``model_index.json``."""
    networks: ClassVar[Mapping[str, Network]]
    """Components with weights, in the order of loading."""
    tokenizers: ClassVar[Mapping[str, readers.Kind]]
    """Tokenizer components, in the order in which lost words are told."""
    pipelines: ClassVar[Pipelines]
    classifier_free_guidance: ClassVar[bool] = False
    scheduler_class: ClassVar[Any]
    scheduler_options: ClassVar[Mapping[str, Any]] = {}
    """What takes the place of the folder's own scheduler configuration."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Components that a folder may lack; they are None in the pipeline then."""
    schedulers: ClassVar[frozenset[str]]
    """The catalogue's names of what :attr:`scheduler_class` can do."""
    denoiser: ClassVar[str] = "transformer"
    decoder: ClassVar[str] = "vae"

    def __init__(self, context: OpenContext, components: list[model_folder.Component], parts: dict[str, Any]) -> None:
        """:param parts: tokenizers and scheduler; used by :meth:`open` only."""
        self._context = context
        self._components = {component.name: component for component in components}
        self._shells = {name: self._shell(name) for name in self._components}
        self._loaded: dict[str, nn.Module] = {}
        self._numbers: list[Part] = []
        self._parts = dict.fromkeys(self.optional) | parts
        self.previews = Previews(context.folder, lambda: self.module(self.decoder))

    @classmethod
    def open(cls, context: OpenContext) -> Self:
        """:raises EngineFault: ModelIncomplete or IntegrityError, naming the file."""
        folder = context.folder
        classes: dict[str, frozenset[str]] = {"scheduler": frozenset({cls.scheduler_class.__name__})}
        classes |= {name: kind.classes for name, kind in cls.tokenizers.items()}
        classes |= {name: frozenset({network.cls.__name__}) for name, network in cls.networks.items()}
        found = model_folder.read_index(folder, cls.index_class, classes, cls.optional)
        scheduler = model_folder.read_json(folder, "scheduler/scheduler_config.json")
        components = [
            model_folder.read_component(folder, name, found[name], network.stem)
            for name, network in cls.networks.items()
            if name in found
        ]
        parts: dict[str, Any] = {
            name: readers.open_tokenizer(folder, name, kind) for name, kind in cls.tokenizers.items() if name in found
        }
        parts["scheduler"] = cls.scheduler_class.from_config(scheduler, **cls.scheduler_options)
        context.checkpoint()
        return cls(context, components, parts)

    # --- components ----------------------------------------------------------------------

    @property
    def encoders(self) -> frozenset[str]:
        return frozenset(name for name in self._components if self.networks[name].encoder)

    @property
    def parts(self) -> list[Part]:
        if not self._numbers:
            self._numbers = parts_of(cast("Family", self), self._components.values())
        return self._numbers

    def _part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def module(self, name: str) -> Any:
        """The loaded component, or its shell."""
        return self._loaded.get(name, self._shells[name])

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [
            readers.reader_of(kind, self._parts[name], max_sequence_length)
            for name, kind in self.tokenizers.items()
            if self._parts[name] is not None
        ]

    def missing(self, names: Collection[str]) -> list[str]:
        return [name for name in self._components if name in names and name not in self._loaded]

    def size(self, names: Collection[str]) -> int:
        return sum(component.size for name, component in self._components.items() if name in names)

    def load(self, names: Collection[str], progress: model_folder.Progress) -> None:
        for name in self.missing(names):
            module, context = self._shell(name), self._context
            bits = plan.bits(self._part(name), context.quantization)
            with self._blaming(name):
                weights.fill(module, self._components[name], context.dtype, context.device, progress, bits)
            blocks = compiled.compile_blocks(module) if name == self.denoiser and context.compiled else ()
            context.checkpoints.install(module, blocks)
            self._loaded[name] = module

    def drop(self, names: Collection[str]) -> None:
        dropped = [self._loaded.pop(name) for name in names if name in self._loaded]
        if dropped:
            dropped.clear()
            devices.release(self._context.device)

    def _shell(self, name: str) -> nn.Module:
        component, network = self._components[name], self.networks[name]
        with self._blaming(name):
            return weights.shell(network.cls, component, self._context.dtype)

    def _blaming(self, name: str) -> _Blame:
        return _Blame(name, self._context.device)

    # --- for the subclasses --------------------------------------------------------------

    def pipeline(self, cls: Any) -> Any:
        """diffusers' pipeline of class ``cls`` around what is loaded, and shells for the rest. Not to be kept."""
        # diffusers asks the components for the device, and might ask a shell
        pinned = type(cls.__name__, (cls,), {"_execution_device": torch.device(self._context.device)})
        pipe = pinned(**self._parts | {name: self.module(name) for name in self._components})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def scheduler(self) -> Any:
        """The scheduler that :meth:`pipeline` puts into pipelines."""
        return self._parts["scheduler"]

    def way(self, spec: JobSpec, source: Source | None) -> tuple[Any, dict[str, Any]]:
        """The pipeline that makes the job's images, and what it takes of the edit."""
        if source is None:
            return self.pipelines.text, {}
        strength = 1.0 if source.strength is None else max(source.strength, self.least_strength(spec.steps))
        edit = {"image": source.image, "strength": strength}
        if source.mask is None:
            return self.pipelines.image, edit
        return self.pipelines.inpaint, edit | {"mask_image": source.mask}

    def least_strength(self, steps: int) -> float:
        """A strength at which one step of ``steps`` still runs; all smaller ones would run one or none."""
        return 0.5 / steps

    def sample(self, cls: Any, task: Denoising, **arguments: Any) -> torch.Tensor:
        """The latent that diffusers' pipeline of class ``cls`` comes to, in the shape in which it leaves the loop."""
        self._tile(task.spec.tiling == "on")  # an edit encodes its source in there
        with (
            drawing_from(task.noise, cls.__module__, autoencoder.MODULE),
            observed_steps(self.scheduler, task.on_step),
            self._at(task.spec.speed),
        ):
            result = self.pipeline(cls)(
                **arguments, num_inference_steps=task.spec.steps, output_type="latent", return_dict=False
            )
        return cast("torch.Tensor", result[0])

    @contextlib.contextmanager
    def _at(self, speed: str) -> Generator[None]:
        """Let the denoiser answer at ``speed``."""
        denoiser = self.module(self.denoiser)
        if speed == "exact":
            yield
            return
        with compiled.aside(denoiser), step_cache.caching(denoiser, speed):
            yield

    # --- pixels --------------------------------------------------------------------------

    def decode(self, latent: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        self._tile(tiled)
        return autoencoder.decoded(self.module(self.decoder), latent)

    def _tile(self, tiled: bool) -> None:
        vae = self.module(self.decoder)
        if tiled:
            vae.enable_tiling()
            # diffusers' tile is as large as the pictures that the autoencoder was trained on, often 1024 pixels
            vae.tile_sample_min_size = min(vae.config.sample_size, plan.TILE)
            vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)
        else:
            vae.disable_tiling()

    def to_image(self, pixels: torch.Tensor) -> Any:
        return cast("Any", VaeImageProcessor()).postprocess(pixels, output_type="pil")[0]


class _Blame:
    """Turns what the libraries raise while component ``name`` is built into a failure that names its file."""

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
            raise model_folder.broken(f"{self._name}/config.json", "it does not fit the weights beside it") from error
