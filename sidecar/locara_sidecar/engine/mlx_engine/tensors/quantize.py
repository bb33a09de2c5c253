"""Linear layers in 8 or 4 bits: quantized while they are read, or read in quantized form.

Every 64 numbers of a row share a scale and an offset in the compute type (8.5 and 4.5 bits per weight with bfloat16).
Only linear layers inside the repeated blocks are quantized. They hold nearly all weights; the layers around them (the
embeddings of pixels, text and time, the last modulation and projection), convolutions, norms and the CLIP encoders stay
as they are. Chosen by ``make bench-quantization`` on the shipped model: in 4 bits all blocks together change the
finished latents by 5.7 %, and the few layers around them by nearly as much (time and pooled text alone by 4.8 %, the
last projection by 2.9 %). Modulation (3.9 %) is little worse than the feed-forward (2.9 %), so FLUX's, a quarter of its
weights, is quantized like the rest. In 8 bits everything together changes them by 0.4 %. (24 pictures of 12 steps; all
of them show what their prompts say, however quantized.)

A *prepared* component was saved quantized: its ``config.json`` says how, its tensors have the module's own names and
layout, and reading it needs no computation.
"""

from __future__ import annotations

import errno
import json
import shutil
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.mlx_engine.tensors import weights
from locara_sidecar.engine.previews import tiny_preview
from locara_sidecar.machine import disk_space

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from locara_sidecar.engine.folder.model_folder import Component, Progress
    from locara_sidecar.engine.mlx_engine.tensors.weights import Named, Quantizer

GROUP = 64
BITS = {"none": None, "8bit": 8, "4bit": 4}
"""The protocol's names."""
_KEY = "quantization"
_SHARD_BYTES = 2_000_000_000

M = TypeVar("M", bound=nn.Module)


class AffineQuantizer:
    """A :class:`~locara_sidecar.engine.mlx_engine.tensors.weights.Quantizer` to ``bits`` bits.

    :param chosen: selects linear layers by their path in the module, instead of those in its repeated blocks. Layers
        whose rows are not whole groups are never quantized.
    :param prepared: whether the tensors to be read are already quantized.
    """

    def __init__(
        self, bits: int, chosen: Callable[[str], bool] | None = None, *, group: int = GROUP, prepared: bool = False
    ) -> None:
        self.bits = bits
        self.group = group
        self._chosen = chosen
        self._prepared = prepared
        self._layers: set[str] = set()

    def prepare(self, module: nn.Module) -> None:
        chosen = self._chosen or partial(is_repeated, type(module))

        def choose(path: str, layer: nn.Module) -> bool:
            if not isinstance(layer, nn.Linear) or layer.weight.shape[1] % self.group or not chosen(path):
                return False
            self._layers.add(path)
            return True

        # the random weights that it quantizes are never computed
        nn.quantize(module, group_size=self.group, bits=self.bits, class_predicate=choose)

    @property
    def has_layers(self) -> bool:
        """Whether a prepared module had layers to quantize."""
        return bool(self._layers)

    def store(self, name: str, value: mx.array) -> Named:
        layer, _, parameter = name.rpartition(".")
        if self._prepared or parameter != "weight" or layer not in self._layers:
            return [(name, value)]
        weight, scales, biases = mx.quantize(value, group_size=self.group, bits=self.bits)
        return [(name, weight), (f"{layer}.scales", scales), (f"{layer}.biases", biases)]


def is_repeated(network: type[nn.Module], path: str) -> bool:
    """Whether a layer is inside one of the network's repeated blocks, as named by its ``repeated``."""
    lists: tuple[str, ...] = getattr(network, "repeated", ())
    parts = path.split(".")
    return any(name in lists and number.isdecimal() for name, number in pairwise(parts))


def build(model_type: type[M], component: Component, dtype: mx.Dtype, progress: Progress, bits: int | None) -> M:
    """Build a quantized model with :func:`weights.build`; a prepared component keeps its quantization.

    :raises EngineError: see there, and IntegrityError for a component that was prepared differently.
    :raises JobCancelled: between two tensors.
    """
    prepared = component.config.get(_KEY)
    if prepared is None:
        quantizer = None if bits is None else AffineQuantizer(bits)
        return weights.build(model_type, component, dtype, progress, quantizer)
    match prepared:
        case {"bits": 4 | 8 as found, "group_size": 32 | 64 | 128 as group} if found == bits:
            ready: Quantizer = AffineQuantizer(found, group=group, prepared=True)
        case _:
            raise model_folder.broken(f"{component.name}/config.json", f"it was prepared differently ({prepared})")
    as_named = type(model_type.__name__, (model_type,), {"sanitize": staticmethod(_as_it_is)})
    return weights.build(cast("type[M]", as_named), component, dtype, progress, ready)


def prepared_size(model_type: type[nn.Module], component: Component, dtype: mx.Dtype, bits: int) -> int:
    """Return the size of a component's tensors once quantized, in bytes; 0 if it has no layers to quantize."""
    made = cast("Any", model_type)
    quantizer = AffineQuantizer(bits)
    config = weights.read_config(made.config_type, component)
    with weights.making_modules():
        module: nn.Module = made(config)
        quantizer.prepare(module)
    if not quantizer.has_layers:
        return 0
    tensors = [value for _, value in cast("list[tuple[str, mx.array]]", tree_flatten(module.parameters()))]
    return sum(
        value.size * (dtype.size if mx.issubdtype(value.dtype, mx.floating) else value.itemsize) for value in tensors
    )


def prepared_as(folder: Path) -> str | None:
    """Return the quantization in which the model in ``folder`` was prepared, by the protocol's name, or None."""
    for path in sorted(folder.glob("*/config.json")):
        if path.parent.name == tiny_preview.NAME:  # not part of the model: if it is broken, only previews are lost
            continue
        prepared: Any = model_folder.read_json(folder, f"{path.parent.name}/config.json").get(_KEY)
        if isinstance(prepared, dict):
            found: Any = cast("dict[str, Any]", prepared).get("bits")
            return next((name for name, bits in BITS.items() if bits is not None and bits == found), None)
    return None


def save(model: nn.Module, component: Component, bits: int, folder: Path, checkpoint: Callable[[], None]) -> None:
    """Write a component that :func:`build` has quantized to ``folder / component.name``, in shards, with its index.

    Shards are written from the loaded tensors without copying them.

    :raises OSError: ENOSPC if the disk is full, EIO if writing fails.
    :raises JobCancelled: between two shards.
    """
    into = folder / component.name
    if into.exists():  # of an engine that was replaced before it had ended
        shutil.rmtree(into)
    into.mkdir(parents=True)
    stem = component.files[0].name.split(".")[0].split("-")[0]
    shards: list[dict[str, mx.array]] = [{}]
    size = 0
    for name, value in cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters())):
        if shards[-1] and size + value.nbytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        _write(into / file, shard)
        weight_map |= dict.fromkeys(shard, file)
        checkpoint()
    index = {"metadata": {}, "weight_map": weight_map}
    (into / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config: dict[str, Any] = {**component.config, _KEY: {"bits": bits, "group_size": GROUP}}
    (into / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _write(path: Path, shard: dict[str, mx.array]) -> None:
    try:
        mx.save_safetensors(str(path), shard, {"format": "mlx"})
    except RuntimeError as error:  # MLX reports no error number
        if "unable to write" not in str(error).lower():
            raise
        full = disk_space.free(path.parent) < sum(value.nbytes for value in shard.values())
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, "a shard could not be written") from error


def _as_it_is(key: str, value: mx.array) -> tuple[str, mx.array]:
    return key, value
