"""What all families of this engine share: opening a folder, loading and dropping components, decoding.

A family is first *opened*: its folder and configurations are fully checked, and no weights are read. Components are
then loaded and dropped by their name in ``model_index.json``. A new family is one module with a class derived from
:class:`MlxFamily`, named in the family's row of ``machine/supported.py``.

Arrays have their channels last here; noise and latents elsewhere (``engine/drawing/noise.py``) have them first.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from locara_sidecar.engine.drawing.family import CheckedFolder, Family
from locara_sidecar.engine.drawing.prompts import unfit
from locara_sidecar.engine.drawing.prompts.truncation import Reader
from locara_sidecar.engine.folder import config_check, model_folder
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.autoencoders.previews import Previews
from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
from locara_sidecar.engine.mlx_engine.kernels import rotated_heads
from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.engine.mlx_engine.tensors import quantize, weights
from locara_sidecar.engine.mlx_engine.texts import qwen_tokens, text_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mlx import nn
    from PIL.Image import Image as PilImage

    from locara_sidecar.engine.mlx_engine.pace import Checkpoints
    from locara_sidecar.ipc.frames import Sides
    from locara_sidecar.machine.supported import Tokenizer


class OpenContext(NamedTuple):
    """A model's folder and how to load its components later.

    ``sides`` limits the pictures' size; ``bits`` are those of quantized weights.
    """

    folder: Path
    dtype: mx.Dtype
    sides: Sides
    checkpoints: Checkpoints
    bits: int | None = None


class MlxFamily(Family):
    """Base class of this engine's families.

    A subclass sets the class variables and defines ``readers``, ``encode`` and ``denoise``.
    """

    engine = "mlx"
    networks: ClassVar[Mapping[str, type[nn.Module]]]
    """The modules by their class in ``model_index.json``; without one for the autoencoder, it is :class:`.Vae`."""

    _context: OpenContext
    _tokenizers: dict[str, text_tokens.TextTokenizer]

    def __init__(
        self, context: OpenContext, read: CheckedFolder, tokenizers: dict[str, text_tokens.TextTokenizer]
    ) -> None:
        super().__init__(context, read, tokenizers)
        self._configs = {
            component.name: weights.read_config(cast("Any", self._network(component)).config_type, component)
            for component in read.components
        }
        self.sampler: Any = self._sampler(read.scheduler, None)
        self._scheduler = read.scheduler
        self.previews = Previews(context.folder, lambda: self.vae, context.checkpoints)
        context.checkpoints.checkpoint()

    @classmethod
    def _tokenizer(cls, folder: Path, name: str, kind: Tokenizer) -> tuple[text_tokens.TextTokenizer, int]:
        tokenizer = qwen_tokens.load(folder, name, kind) if kind.converses else text_tokens.load(folder, name)
        tokenizer.starts(unfit.TRIAL)
        return tokenizer, tokenizer.highest

    # --- the scheduler -------------------------------------------------------------------

    def use_scheduler(self, name: str) -> None:
        self.sampler = self._sampler(self._scheduler, name)

    def _sampler(self, described: dict[str, Any], name: str | None) -> Any:
        """Read the scheduler with the catalogue's ``name``, or the folder's own if it is None."""
        del name
        return samplers.read(samplers.FlowMatchConfig, described)

    # --- components ----------------------------------------------------------------------

    @property
    def grid(self) -> int:
        return self.config(self.decoder).factor

    @property
    def vae(self) -> Vae:
        """The decoder, which must be loaded."""
        return self.module(self.decoder)

    def module(self, name: str) -> Any:
        """Return a component, which must be loaded."""
        return self._loaded[name]

    def has(self, name: str) -> bool:
        """Whether the folder has the component, loaded or not."""
        return name in self._components

    def config(self, name: str) -> Any:
        """Return the component's configuration."""
        return self._configs[name]

    def _network(self, component: model_folder.Component) -> type[nn.Module]:
        """Return the module class for a component."""
        return self.networks.get(component.class_name, Vae)

    def _build(self, name: str, progress: model_folder.Progress) -> Any:
        component = self._components[name]
        model = quantize.build(self._network(component), component, self._dtype(name), progress, self._context.bits)
        self.trim(name, model)
        device.lay_out(model)
        return model

    def _dtype(self, name: str) -> mx.Dtype:
        """Return the compute type, widened for what overflows float16: T5, Qwen3, and autoencoders configured so."""
        dtype = self._context.dtype
        if dtype != mx.float16:
            return dtype
        if getattr(self._configs[name], "overflows_float16", False):
            return mx.bfloat16
        return mx.float32 if getattr(self._configs[name], "force_upcast", False) else dtype

    def _is_wide(self, name: str, key: str) -> bool:
        del key
        return bool(getattr(self._configs[name], "force_upcast", False))

    def try_kernels(self, device: str) -> None:
        """Try our own kernels that only some denoisers use on the device."""
        if heads := getattr(self._configs[self.denoiser], "rotated_heads", None):
            rotated_heads.try_out(device, rotated_heads.Use(self._dtype(self.denoiser), *heads))

    def trim(self, name: str, model: Any) -> None:
        """Drop parts of this model that no job needs; called after a component was loaded."""

    def prepared_sizes(self) -> dict[str, int]:
        """Return the components that quantizing changes, and their sizes afterwards, in bytes."""
        bits = self._context.bits
        assert bits is not None
        sizes = {
            name: quantize.prepared_size(self._network(component), component, self._dtype(name), bits)
            for name, component in self._components.items()
        }
        return {name: size for name, size in sizes.items() if size}

    def prepare(self, names: Collection[str], into: Path, progress: model_folder.Progress) -> None:
        """Write these components, quantized, to the folder ``into``.

        They replace the model's own components in a folder that this engine reads without conversion. Only one
        component is in memory at a time.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises OSError: if the disk is full.
        :raises JobCancelled: between two tensors or files.
        """
        bits = self._context.bits
        assert bits is not None
        for name in names:
            component = self._components[name]
            model = quantize.build(self._network(component), component, self._dtype(name), progress, bits)
            quantize.save(model, component, bits, into, progress.checkpoint)
            del model
            mx.clear_cache()

    def require_fit(self) -> None:
        """See :meth:`.Family.require_fit`. Components that were prepared here are not checked."""
        for component in self._components.values():
            if config_check.PREPARED not in component.config:
                weights.require_fit(self._network(component), component)

    def _release(self) -> None:
        gc.collect()
        mx.clear_cache()

    # --- texts and pixels ----------------------------------------------------------------

    def pace(self) -> Any:
        """Return the cancel points for one call of a model."""
        return self._context.checkpoints.pace()

    def tokenizer(self, name: str) -> text_tokens.TextTokenizer:
        return self._tokenizers[name]

    def ids(self, tokenizer: str, text: str, length: int | None = None) -> mx.array:
        """Tokenize a text to (1, length) ids; ``length`` is the tokenizer's own limit if None."""
        reading = self._tokenizers[tokenizer]
        return mx.array([reading.ids(text, length or reading.longest)])

    def reader(self, title: str, name: str, limit: int | None = None) -> Reader:
        """Return a tokenizer as needed by ``drawing/prompts/truncation.py``; ``title`` is its display name."""
        tokenizer = self._tokenizers[name]
        return Reader(title, limit or tokenizer.longest, tokenizer.specials, tokenizer.starts, tokenizer.keeps_end)

    def decode(self, latent: mx.array, *, tiled: bool) -> mx.array:
        """Decode a latent to pixels (1, height, width, 3), about -1 … 1, not clipped. Needs :attr:`decoder` loaded."""
        vae = self.vae
        pixels = vae.decode(vae.to_raw(latent).astype(vae.dtype), self.pace(), tiled=tiled)
        mx.eval(pixels)
        return pixels

    def to_image(self, pixels: mx.array) -> PilImage:
        """Convert pixels to an RGB picture, rounded as in diffusers."""
        values = np.array(pixels[0].astype(mx.float32))
        return Image.fromarray(((values / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8))


def channels_last(noise: np.ndarray[Any, Any]) -> mx.array:
    """Convert noise of shape (1, C, h, w) to channels last."""
    return mx.array(np.ascontiguousarray(noise.transpose(0, 2, 3, 1)))
