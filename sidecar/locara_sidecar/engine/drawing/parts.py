"""Sizes and shapes of a model's components for the memory plan, from the headers and configurations of its folder."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.engine.folder import part_sizes
from locara_sidecar.engine.folder.model_folder import safe_open
from locara_sidecar.machine.plan import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locara_sidecar.engine.folder.model_folder import Component
    from locara_sidecar.machine.supported import Family

_LINEAR = re.compile(r"\.\d+\..*\.weight$")
_EMBEDDING = "relative_attention_bias"  # T5's table of relative positions, inside its first block
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_WORDS_OUT = "lm_head."
"""The last layers of a language model, which no picture needs."""
_WORD = 32  # bits
_PIXELS = 8  # pixels per latent pixel along a side, in most models


def parts_of(family: Family, components: Iterable[Component], is_wide: Callable[[str, str], bool]) -> list[Part]:
    """Return a :class:`Part` for each component. Reads the files' headers only.

    :param is_wide: takes a component's name and a tensor's; whether the engine has it in float32 instead of float16.
    """
    return [_part(component, family, is_wide) for component in components]


def _part(component: Component, family: Family, is_wide: Callable[[str, str], bool]) -> Part:
    parameters = quantizable = wide = 0
    saved: Any = component.config.get("quantization")  # in fewer bits, packed into 32-bit words
    bits: Any = cast("dict[str, Any]", saved).get("bits") if isinstance(saved, dict) else None
    in_a_word = _WORD // bits if bits in (4, 8) else 1
    for key, dtype, shape in _shapes(component):
        if component.name in family.encoders and _unread(key, component, family):
            continue
        if in_a_word > 1 and key.endswith((".scales", ".biases")):
            continue  # belongs to the weight of the same name
        count = math.prod(shape) * (in_a_word if dtype == "U32" else 1)
        parameters += count
        wide += count if is_wide(component.name, key) else 0
        if len(shape) == 2 and _LINEAR.search(key) and _EMBEDDING not in key:
            quantizable += count
    config: dict[str, Any] = component.config
    channels = config.get("block_out_channels")
    if component.name == family.decoder:
        return Part(name=component.name, role="decoder", parameters=parameters, width=_first(channels), wide=wide)
    if component.name != family.denoiser:
        return Part(name=component.name, role="encoder", parameters=parameters, quantizable=quantizable, wide=wide)
    heads, size = config.get("num_attention_heads") or 0, config.get("attention_head_dim") or 0
    width = _first(channels) if channels else config.get("dim") or heads * size
    return Part(
        name=component.name,
        role="denoiser",
        parameters=parameters,
        quantizable=quantizable,
        wide=wide,
        width=width,
        stride=_PIXELS if channels else 2 * _PIXELS,  # a UNet works on single latent pixels, a transformer on 2 x 2
    )


def _unread(key: str, component: Component, family: Family) -> bool:
    """Whether a tensor of a text encoder belongs to layers above the states that the family reads."""
    if not family.taps:
        return False
    if key.startswith(_WORDS_OUT):
        return True
    whole = part_sizes.DEFAULTS[component.class_name] | component.config
    layer = _LAYER.search(key)
    return layer is not None and int(layer[1]) >= family.layers_read(whole["num_hidden_layers"])


def _shapes(component: Component) -> Iterable[tuple[str, str, list[int]]]:
    for path in component.files:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                tensor = file.get_slice(key)
                yield key, tensor.get_dtype(), tensor.get_shape()


def _first(channels: Any) -> int:
    return int(cast("list[int]", channels)[0]) if isinstance(channels, list) and channels else 0
