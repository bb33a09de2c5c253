"""What all families have in common here: opening a folder, loading and dropping components, decoding.

A family is *opened* first: its folder is checked from end to end, configurations included, and no weights are read.
Components are then loaded and dropped by name (those of ``model_index.json``). A new family is one module with a
class over :class:`MlxFamily`, named in the family's row of ``machine/supported.py``.

Arrays keep their channels last here; noise and latents of other code (``engine/drawing/noise.py``) have them first.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from locara_sidecar.engine.drawing.family import CheckedFolder, Family
from locara_sidecar.engine.drawing.prompts.truncation import Reader
from locara_sidecar.engine.folder import config_check, model_folder
from locara_sidecar.engine.mlx_engine.autoencoders.previews import Previews
from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
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
    """Which folder, and how its components are to be loaded later; ``sides`` bounds the pictures to come, ``bits`` are
    those of quantized weights."""

    folder: Path
    dtype: mx.Dtype
    sides: Sides
    checkpoints: Checkpoints
    bits: int | None = None


class MlxFamily(Family):
    """The base of this engine's families. A subclass gives the class variables, ``readers``, ``encode`` and
    ``denoise``."""

    engine = "mlx"
    networks: ClassVar[Mapping[str, type[nn.Module]]]
    """What runs the encoders and the denoiser, by their class in ``model_index.json``."""

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
        return tokenizer, tokenizer.highest

    # --- the scheduler -------------------------------------------------------------------

    def use_scheduler(self, name: str) -> None:
        self.sampler = self._sampler(self._scheduler, name)

    def _sampler(self, described: dict[str, Any], name: str | None) -> Any:
        """What a scheduler is made of, for the catalogue's ``name`` or as the folder itself has it."""
        del name
        return samplers.read(samplers.FlowMatchConfig, described)

    # --- components ----------------------------------------------------------------------

    @property
    def grid(self) -> int:
        return self.config(self.decoder).factor

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

    def _network(self, component: model_folder.Component) -> type[nn.Module]:
        """What runs a component."""
        return Vae if component.name == self.decoder else self.networks[component.class_name]

    def _build(self, name: str, progress: model_folder.Progress) -> Any:
        component = self._components[name]
        model = quantize.build(self._network(component), component, self._dtype(name), progress, self._context.bits)
        self.trim(name, model)
        return model

    def _dtype(self, name: str) -> mx.Dtype:
        """The computing type, or a wider one for what overflows float16: T5, Qwen3, and autoencoders that say so."""
        dtype = self._context.dtype
        if dtype != mx.float16:
            return dtype
        if getattr(self._configs[name], "overflows_float16", False):
            return mx.bfloat16
        return mx.float32 if getattr(self._configs[name], "force_upcast", False) else dtype

    def trim(self, name: str, model: Any) -> None:
        """Forget what no job of this model uses; called when a component has been read."""

    def prepared_sizes(self) -> dict[str, int]:
        """The components that quantizing changes, and the bytes of each afterwards."""
        bits = self._context.bits
        assert bits is not None
        sizes = {
            name: quantize.prepared_size(self._network(component), component, self._dtype(name), bits)
            for name, component in self._components.items()
        }
        return {name: size for name, size in sizes.items() if size}

    def prepare(self, names: Collection[str], into: Path, progress: model_folder.Progress) -> None:
        """Write these components to the folder ``into``, quantized. In place of the model's own they make a model
        folder from which this engine reads what it needs as it is. One component is in memory at a time.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises OSError: when the disk is full.
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
        """See :meth:`.Family.require_fit`; what was prepared here fits itself."""
        for component in self._components.values():
            if config_check.PREPARED not in component.config:
                weights.require_fit(self._network(component), component)

    def _release(self) -> None:
        gc.collect()
        mx.clear_cache()

    # --- texts and pixels ----------------------------------------------------------------

    def pace(self) -> Any:
        """Cancel points for one call of a model."""
        return self._context.checkpoints.pace()

    def tokenizer(self, name: str) -> text_tokens.TextTokenizer:
        return self._tokenizers[name]

    def ids(self, tokenizer: str, text: str, length: int | None = None) -> mx.array:
        """A text as (1, length) ids for a text encoder; ``length`` is the tokenizer's own if None."""
        reading = self._tokenizers[tokenizer]
        return mx.array([reading.ids(text, length or reading.longest)])

    def reader(self, title: str, name: str, limit: int | None = None) -> Reader:
        """The tokenizer of ``name`` for ``drawing/prompts/truncation.py``; ``title`` is for people."""
        tokenizer = self._tokenizers[name]
        return Reader(title, limit or tokenizer.longest, tokenizer.specials, tokenizer.starts, tokenizer.keeps_end)

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
