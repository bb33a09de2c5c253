"""Read a checked model folder (``engine/folder/model_folder.py``) into torch modules, tensor by tensor.

A module is first created as a *shell* on torch's ``meta`` device, which takes no memory or time, and then filled from
the files. Each tensor is read, converted and moved on its own, so that loading needs the module's memory plus one
tensor. Tensors are copied into fresh memory: a mapped file would make results depend on its alignment and the process
on the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors import safe_open as _safe_open
from torch import nn

from locara_sidecar.engine.folder import model_folder, tensor_check
from locara_sidecar.engine.torch_engine.tensors import quantization, wide_convolutions
from locara_sidecar.engine.torch_engine.tensors.names import TensorLocations
from locara_sidecar.engine.torch_engine.tensors.quantized_linear import QuantizedLinear
from locara_sidecar.machine import memory

if TYPE_CHECKING:
    from collections.abc import Iterator


safe_open: Any = _safe_open
_MAPPED = 256 << 20  # bytes
_CHANNELS_LAST = {"cpu"}
"""Devices on which autoencoders' convolutions use channels-last in half precision.

torch keeps activations in that layout; float32 stays as in diffusers, to the bit.

Only where it was measured to pay (``make bench-layout``): on CPUs with bfloat16 a decode takes 0.43 of the time (with
AMX) or 0.78 (without), and 0.7 or 0.8 of the memory; a UNet, which is mostly not convolutions, gains nothing. Not CUDA:
it has not been measured there, and torch's group norm for CUDA, which precedes nearly every convolution here, always
returns torch's own layout (pytorch issue 111824), so that each convolution would convert its input again.
"""


def shell(cls: Any, component: model_folder.Component, dtype: torch.dtype) -> nn.Module:
    """Create a diffusers or transformers model from its configuration, without memory.

    :raises Exception: whatever ``cls`` raises for an invalid configuration.
    """
    with torch.device("meta"):
        if hasattr(cls, "from_config"):
            module: nn.Module = cls.from_config(component.config)
        else:
            module = cls(cls.config_class.from_dict(component.config))
    return module.to(dtype).eval().requires_grad_(requires_grad=False)


def precise(module: nn.Module) -> frozenset[str]:
    """Return the parts of names of a module's tensors that are kept in float32 when the others are in float16."""
    return frozenset(getattr(module, "_keep_in_fp32_modules", None) or ())


@memory.large_blocks_apart()
def fill(
    module: nn.Module,
    component: model_folder.Component,
    dtype: torch.dtype,
    device: str,
    progress: model_folder.Progress,
    bits: int = 0,
) -> None:
    """Fill a shell with its weights, on ``device``, floating-point ones as ``dtype``. Unknown tensors are skipped.

    :param bits: 8 or 4 to quantize the layers that allow it; 0 for none.
    :raises EngineError: IntegrityError if tensors are missing, unreadable or have another shape.
    :raises JobCancelled: between two tensors.
    """
    wide = precise(module) if dtype == torch.float16 else frozenset[str]()
    channels_last = device in _CHANNELS_LAST and type(module).__name__.startswith("Autoencoder")
    quantization.prepare(module, bits, dtype, wide, device)
    places = TensorLocations(module)
    for key, tensor in _tensors(component, progress):
        place = places.find(key)
        if place is None:
            continue
        owner, path, name = place
        if isinstance(owner, QuantizedLinear) and name == "weight":
            _require_shape(component, key, tensor, owner.shape)
            owner.store(tensor.to(device))
            continue
        there = getattr(owner, name, None)
        if not isinstance(there, torch.Tensor):
            continue
        _require_shape(component, key, tensor, there.shape)
        wanted = torch.float32 if wide.intersection(path.split(".")) else dtype
        value = tensor.to(device, wanted if tensor.is_floating_point() else tensor.dtype, copy=True)
        if channels_last and isinstance(owner, nn.Conv2d) and value.dim() == 4 and wanted != torch.float32:
            value = value.contiguous(memory_format=torch.channels_last)
        _put(owner, name, value)
    _share(module)
    _compute(module, device)
    for name, tensor in module.state_dict().items():
        if tensor.is_meta and _is_count(name):
            path, _, last = name.rpartition(".")
            _put(module.get_submodule(path), last, torch.zeros_like(tensor, device=device))
    absent = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if absent:
        raise model_folder.tensors_missing(component, absent)
    wide_convolutions.widen(module, device)


def require_fit(module: nn.Module, component: model_folder.Component) -> None:
    """Require that the files have the tensors and shapes that a shell needs. Reads only their headers.

    :raises EngineError: IntegrityError, as :func:`fill` would.
    """
    places = TensorLocations(module)
    found: set[str] = set()
    for path in component.files:
        for key, tensor in tensor_check.headers(path)[0].items():
            place = places.find(key)
            there = None if place is None else getattr(place.owner, place.name, None)
            if place is None or not isinstance(there, torch.Tensor):
                continue
            _require_shape(component, key, tensor, there.shape)
            found.add(f"{place.path}.{place.name}".removeprefix("."))
    for pair in _tied(module):
        found |= set(pair) if found.intersection(pair) else set()
    if absent := sorted(name for name in module.state_dict().keys() - found if not _is_count(name)):
        raise model_folder.tensors_missing(component, absent)


def _is_count(name: str) -> bool:
    return name.rpartition(".")[2] == tensor_check.COUNTED


def _require_shape(
    component: model_folder.Component, key: str, tensor: torch.Tensor | tensor_check.Tensor, shape: tuple[int, ...]
) -> None:
    if tuple(tensor.shape) != tuple(shape):
        reason = f"it does not match the weights beside it ({key} is {list(tensor.shape)}, not {list(shape)})"
        raise model_folder.broken(f"{component.name}/config.json", reason)


def _tensors(component: model_folder.Component, progress: model_folder.Progress) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names and (mapped) tensors. Progress counts a tensor when the next one is requested.

    Pages that were read from a mapping count as the process's own memory for as long as the mapping exists. To limit
    that, a file is reopened whenever :data:`_MAPPED` bytes of it have been read.
    """
    for path in component.files:
        try:
            left: list[str] | None = None
            while left is None or left:
                with safe_open(path, framework="pt") as opened:
                    left = list(opened.keys()) if left is None else left
                    read = 0
                    while left and read < _MAPPED:
                        key = left.pop(0)
                        tensor: torch.Tensor = opened.get_tensor(key)
                        size = tensor.nbytes
                        yield key, _computable(tensor)
                        del tensor
                        read += size
                        progress.advance(size)
        except (SafetensorError, OSError) as error:
            raise model_folder.broken(f"{component.name}/{path.name}", "a tensor cannot be read") from error


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    """Convert float8 to bfloat16, which represents it exactly, and float64 to float32; others stay as they are."""
    if tensor.is_floating_point() and tensor.itemsize == 1:
        return tensor.to(torch.bfloat16)
    return tensor.to(torch.float32) if tensor.dtype == torch.float64 else tensor


def _put(owner: nn.Module, name: str, value: torch.Tensor) -> None:
    if isinstance(getattr(owner, name), nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=False))
    else:
        setattr(owner, name, value)


def _tied(module: nn.Module) -> list[tuple[str, str]]:
    """Return the pairs of names that share a tensor."""
    tied: Any = getattr(module, "_tied_weights_keys", None)
    return list(cast("dict[str, str]", tied).items()) if isinstance(tied, dict) else []


def _share(module: nn.Module) -> None:
    """Tie T5's two names for its word embedding to one tensor; files contain either or both."""
    for pair in _tied(module):
        first, second = (module.get_parameter(name) for name in pair)
        if not first.is_meta and not second.is_meta and not torch.equal(first, second):
            continue
        table = second if first.is_meta else first
        for name in pair:
            path, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(path), attribute, table)


def _compute(module: nn.Module, device: str) -> None:
    """Compute buffers that no file contains: CLIP's position ids, and the frequencies of Qwen3's rotary embeddings."""
    for owner in module.modules():
        computed: Any = getattr(owner, "compute_default_rope_parameters", None)
        if computed is not None:
            frequencies, _ = computed(owner.config)
            for name in ("inv_freq", "original_inv_freq"):
                setattr(owner, name, frequencies.to(device, copy=True))  # in float32, whatever the weights are
        positions = getattr(owner, "position_ids", None)
        if isinstance(positions, torch.Tensor) and positions.is_meta:
            owner.position_ids = torch.arange(positions.shape[-1], device=device).expand(positions.shape)
