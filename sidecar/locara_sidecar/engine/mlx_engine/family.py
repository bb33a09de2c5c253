"""What all families have in common here: opening a folder, loading and dropping components, decoding.

A family is *opened* first: its folder is checked from end to end, configurations included, and no weights are read.
Components are then loaded and dropped by name (those of ``model_index.json``). A new family is one module with a
class over :class:`MlxFamily`, and one row in ``MlxRuntime.families``.

Arrays keep their channels last here; noise and latents of other code (``engine/noise.py``) have them first.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from locara_sidecar.engine import model_folder
from locara_sidecar.engine.mlx_engine import quantize, samplers, text_tokens, weights
from locara_sidecar.engine.mlx_engine.previews import Previews
from locara_sidecar.engine.mlx_engine.t5 import T5Config
from locara_sidecar.engine.parts import parts_of
from locara_sidecar.engine.truncation import Reader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mlx import nn
    from PIL.Image import Image as PilImage

    from locara_sidecar.engine.family import Family
    from locara_sidecar.engine.frames import Sides
    from locara_sidecar.engine.mlx_engine.pace import Checkpoints
    from locara_sidecar.engine.mlx_engine.vae import Vae
    from locara_sidecar.engine.plan import Part

CLIP_TOKENIZERS = frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})
T5_TOKENIZERS = frozenset({"T5Tokenizer", "T5TokenizerFast"})


class Network(NamedTuple):
    """A component with weights: the class name in ``model_index.json`` and the model that runs it."""

    class_name: str
    model: type[nn.Module]
    encoder: bool = False

    @property
    def stem(self) -> str:
        """The weight files' name: text encoders were saved by another library."""
        return "model" if self.encoder else "diffusion_pytorch_model"


class OpenContext(NamedTuple):
    """Which folder, and how its components are to be loaded later; ``sides`` bounds the pictures to come, ``bits`` are
    those of quantized weights."""

    folder: Path
    dtype: mx.Dtype
    sides: Sides
    checkpoints: Checkpoints
    bits: int | None = None


class MlxFamily:
    """An opened model. A subclass gives the class variables, ``readers``, ``encode`` and ``denoise``."""

    index_class: ClassVar[str]
    """``_class_name`` in ``model_index.json``."""
    networks: ClassVar[Mapping[str, Network]]
    """Components with weights, in the order of loading."""
    tokenizers: ClassVar[Mapping[str, frozenset[str]]]
    """Tokenizer components and the class names that they may have."""
    scheduler_class: ClassVar[str]
    sampler_config: ClassVar[type]
    """What of its configuration :attr:`sampler` is."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Components that a folder may lack."""
    classifier_free_guidance: ClassVar[bool] = False
    schedulers: ClassVar[frozenset[str]]
    """The catalogue's names of what :attr:`scheduler_class` can do."""
    denoiser: ClassVar[str] = "transformer"
    decoder: ClassVar[str] = "vae"

    def __init__(
        self, context: OpenContext, components: list[model_folder.Component], scheduler: dict[str, Any]
    ) -> None:
        """Used by :meth:`open` only. :param scheduler: its configuration."""
        self._context = context
        self._components = {component.name: component for component in components}
        self._configs = {
            component.name: weights.read_config(cast("Any", self.networks[component.name].model).config_type, component)
            for component in components
        }
        self._loaded: dict[str, nn.Module] = {}
        self._parts: list[Part] = []
        self._tokenizers: dict[str, text_tokens.TextTokenizer] = {}
        self.sampler: Any = samplers.read(self.sampler_config, scheduler)
        self.previews = Previews(context.folder, lambda: self.vae, context.checkpoints)

    @classmethod
    def open(cls, context: OpenContext) -> Self:
        """Check the folder (index, configurations, shards, headers); load tokenizers, no weights.

        :raises EngineFault: ModelIncomplete or IntegrityError, naming the file.
        """
        folder = context.folder
        classes: dict[str, frozenset[str]] = {"scheduler": frozenset({cls.scheduler_class}), **cls.tokenizers}
        classes |= {name: frozenset({network.class_name}) for name, network in cls.networks.items()}
        found = model_folder.read_index(folder, cls.index_class, classes, cls.optional)
        scheduler = model_folder.read_json(folder, "scheduler/scheduler_config.json")
        components = [
            model_folder.read_component(folder, name, found[name], network.stem)
            for name, network in cls.networks.items()
            if name in found
        ]
        family = cls(context, components, scheduler)
        for name in cls.tokenizers:
            if name in found:
                family._tokenizers[name] = text_tokens.load(folder, name)
        context.checkpoints.checkpoint()
        return family

    # --- components ----------------------------------------------------------------------

    @property
    def encoders(self) -> frozenset[str]:
        """The components that turn text into embeddings; nothing else needs them."""
        return frozenset(name for name in self._components if self.networks[name].encoder)

    @property
    def parts(self) -> list[Part]:
        """The components in numbers, for the memory plan."""
        if not self._parts:
            self._parts = parts_of(cast("Family", self), self._components.values())
        return self._parts

    @property
    def vae(self) -> Vae:
        """The decoder, loaded."""
        return self.module(self.decoder)

    def module(self, name: str) -> Any:
        """The loaded component."""
        return self._loaded[name]

    def has(self, name: str) -> bool:
        """Whether the folder has the component, loaded or not."""
        return name in self._components

    def config(self, name: str) -> Any:
        """The component's configuration."""
        return self._configs[name]

    def missing(self, names: Collection[str]) -> list[str]:
        """Those of ``names`` that the model has and that are not loaded, in the order of loading."""
        return [name for name in self._components if name in names and name not in self._loaded]

    def size(self, names: Collection[str]) -> int:
        """Bytes on disk of the components' weights."""
        return sum(component.size for name, component in self._components.items() if name in names)

    def load(self, names: Collection[str], progress: model_folder.Progress) -> None:
        """Load what :meth:`missing` tells, tensor by tensor; a component is there as a whole or not at all.

        :raises EngineFault: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """
        for name in self.missing(names):
            network, component = self.networks[name], self._components[name]
            model = quantize.build(network.model, component, self._dtype(name), progress, self._context.bits)
            self.trim(name, model)
            self._loaded[name] = model

    def _dtype(self, name: str) -> mx.Dtype:
        """The computing type, or a wider one for what overflows float16: T5, and autoencoders that say so."""
        dtype = self._context.dtype
        if dtype != mx.float16:
            return dtype
        if isinstance(self._configs[name], T5Config):
            return mx.bfloat16
        return mx.float32 if getattr(self._configs[name], "force_upcast", False) else dtype

    def trim(self, name: str, model: Any) -> None:
        """Forget what no job of this model uses; called when a component has been read."""

    def prepared_sizes(self) -> dict[str, int]:
        """The components that quantizing changes, and the bytes of each afterwards."""
        bits = self._context.bits
        assert bits is not None
        sizes = {
            name: quantize.prepared_size(self.networks[name].model, component, self._dtype(name), bits)
            for name, component in self._components.items()
        }
        return {name: size for name, size in sizes.items() if size}

    def prepare(self, names: Collection[str], into: Path, progress: model_folder.Progress) -> None:
        """Write these components to the folder ``into``, quantized. In place of the model's own they make a model
        folder from which this engine reads what it needs as it is. One component is in memory at a time.

        :raises EngineFault: IntegrityError or InsufficientMemory.
        :raises OSError: when the disk is full.
        :raises JobCancelled: between two tensors or files.
        """
        bits = self._context.bits
        assert bits is not None
        for name in names:
            component = self._components[name]
            model = quantize.build(self.networks[name].model, component, self._dtype(name), progress, bits)
            quantize.save(model, component, bits, into, progress.checkpoint)
            del model
            mx.clear_cache()

    def drop(self, names: Collection[str]) -> None:
        """Forget the weights of these components; those that are not loaded are passed over."""
        dropped = [self._loaded.pop(name) for name in names if name in self._loaded]
        if dropped:
            dropped.clear()
            gc.collect()
            mx.clear_cache()

    # --- texts and pixels ----------------------------------------------------------------

    def pace(self) -> Any:
        """Cancel points for one call of a model."""
        return self._context.checkpoints.pace()

    def tokenizer(self, name: str) -> text_tokens.TextTokenizer:
        return self._tokenizers[name]

    def reader(self, title: str, name: str, limit: int | None = None) -> Reader:
        """The tokenizer of ``name`` for :mod:`locara_sidecar.engine.truncation`; ``title`` is for people."""
        tokenizer = self._tokenizers[name]
        return Reader(title, limit or tokenizer.longest, tokenizer.specials, tokenizer.starts)

    def decode(self, latent: mx.array, *, tiled: bool) -> mx.array:
        """Pixels (1, height, width, 3), about -1 … 1, not yet clipped. Needs :attr:`decoder`."""
        vae = self.vae
        pixels = vae.decode(vae.to_raw(latent).astype(vae.dtype), self.pace(), tiled=tiled)
        mx.eval(pixels)
        return pixels

    def to_image(self, pixels: mx.array) -> PilImage:
        """An RGB picture, rounded as diffusers does it."""
        values = np.array(pixels[0].astype(mx.float32))
        return Image.fromarray(((values / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8))


def channels_last(noise: np.ndarray[Any, Any]) -> mx.array:
    """Numbers drawn as (1, C, h, w) with the channels last."""
    return mx.array(np.ascontiguousarray(noise.transpose(0, 2, 3, 1)))
