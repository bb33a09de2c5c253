"""What FLUX.1's and FLUX.2's transformers have in common: two streams, text and picture, and later one of both.

*Double* blocks have separate weights for each stream and one attention over both, text first. *Single* blocks run
attention and feed-forward in parallel on the same input, and both share one output layer (Dehghani et al., 2023,
arXiv:2302.05442).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.denoisers import headroom, rotary
from locara_sidecar.engine.mlx_engine.tensors.weights import making_modules


class Heads(nn.Module):
    """Computes queries, keys and values of one stream.

    :param size: the size of a head.
    """

    def __init__(self, width: int, size: int, *, bias: bool, epsilon: float) -> None:
        super().__init__()
        self._size = size
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, width, bias=bias)
        self.to_v = nn.Linear(width, width, bias=bias)
        self.norm_q = nn.RMSNorm(size, eps=epsilon)
        self.norm_k = nn.RMSNorm(size, eps=epsilon)

    def __call__(self, x: mx.array) -> rotary.Stream:
        norms = rotary.Norms(self.norm_q, self.norm_k)
        return rotary.Stream(self.to_q(x), self.to_k(x), self.to_v(x), self._size, norms)


class DoubleBlock(nn.Module, ABC):
    """A block of both streams. Subclasses have ``attn``, ``out``, ``ff`` and, for the text, the same with ``_text``."""

    attn: Any
    attn_text: Any
    out: Any
    out_text: Any
    ff: Any
    ff_text: Any

    def __call__(
        self, x: mx.array, text: mx.array, by: mx.array, by_text: mx.array, rotation: rotary.Rotation
    ) -> tuple[mx.array, mx.array]:
        """Run one block.

        :param x: (B, picture tokens, width).
        :param text: (B, text tokens, width).
        :param by: and ``by_text``: shift, scale and gate of attention and of the feed-forward, (B, 1, 6 x width).
        :param rotation: for the text tokens, then the picture's.
        """
        shift, scale, gate, shift_ff, scale_ff, gate_ff = mx.split(by, 6, axis=-1)
        shift_t, scale_t, gate_t, shift_ff_t, scale_ff_t, gate_ff_t = mx.split(by_text, 6, axis=-1)
        ours = self.attn(self._modulated(x, shift, scale))
        theirs = self.attn_text(self._modulated(text, shift_t, scale_t))
        y, words = rotary.attended([theirs, ours], rotation), text.shape[1]
        x = x + gate * self._projected(self.out, y[:, words:])
        x = x + gate_ff * self.ff(self._modulated(x, shift_ff, scale_ff))
        text = text + gate_t * self._projected(self.out_text, y[:, :words])
        text = text + gate_ff_t * self.ff_text(self._modulated(text, shift_ff_t, scale_ff_t))
        return x, text

    @abstractmethod
    def _modulated(self, x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
        """Return ``x``, normed, scaled and shifted."""

    def _projected(self, layer: Any, seen: mx.array) -> mx.array:
        """Apply the output layer of attention."""
        return headroom.restored(layer, headroom.less(seen))


class Halves(nn.Module):
    """A quantized linear layer on two concatenated inputs, as two layers.

    Each part has its own contiguous rows, so neither inputs nor weights need to be concatenated.

    :param before: the original layer.
    :param at: where the second input begins; a multiple of the quantization's group size.
    """

    def __init__(self, before: nn.QuantizedLinear, at: int) -> None:
        super().__init__()
        self.first = _columns(before, slice(0, at), bias="bias" in before)
        self.second = _columns(before, slice(at, None), bias=False)

    def __call__(self, first: mx.array, second: mx.array) -> mx.array:
        return headroom.restored(self.first, first) + headroom.restored(self.second, second)


def halved(layer: Any, at: int) -> Any:
    """Return a quantized layer split by input if the boundary is also one between groups; otherwise the layer."""
    splits = isinstance(layer, nn.QuantizedLinear) and at % layer.group_size == 0
    return Halves(layer, at) if splits else layer


def on_both(layer: Any, first: mx.array, second: mx.array) -> mx.array:
    """Apply a layer for two concatenated inputs, without concatenating them if possible.

    In float16 like :func:`.headroom.restored`: ``first`` and ``second`` are results of :func:`.headroom.less`.
    """
    if isinstance(layer, Halves):
        return layer(first, second)
    if isinstance(layer, nn.QuantizedLinear):
        return headroom.restored(layer, mx.concatenate([first, second], axis=-1))
    width, narrow = first.shape[-1], first.dtype == mx.float16
    before = layer.weight[:, :width].T
    y = mx.addmm(layer.bias, first, before) if "bias" in layer and not narrow else first @ before
    y = mx.addmm(y, second, layer.weight[:, width:].T)
    return headroom.undivided(y, layer) if narrow else y


def pass_bias_on(values: Any, out: Any) -> None:
    """Move the bias of the quantized layer that computes attention's values into the layer after attention.

    Attention's weights sum to one, so it passes a bias on unchanged; a quantized product needs an extra kernel to add a
    bias.

    :param out: takes attention's result as the first of its inputs.
    """
    if not (isinstance(values, nn.QuantizedLinear) and "bias" in values and "bias" in out):
        return
    bias = values["bias"]
    rest = mx.zeros((_inputs(out) - bias.shape[0],), dtype=bias.dtype)
    out.bias = out(mx.concatenate([bias, rest])[None])[0]
    mx.eval(out.bias)
    cast("dict[str, Any]", values).pop("bias")


def _inputs(layer: Any) -> int:
    if isinstance(layer, nn.QuantizedLinear):
        return layer["scales"].shape[1] * layer.group_size
    return layer.weight.shape[1]


def _columns(layer: nn.QuantizedLinear, which: slice, *, bias: bool) -> nn.QuantizedLinear:
    """Return the part of a quantized layer that takes some of the inputs."""
    parameters: dict[str, mx.array] = {}
    for name, of in (("weight", 32 // layer.bits), ("scales", layer.group_size), ("biases", layer.group_size)):
        start, end = which.start // of, None if which.stop is None else which.stop // of
        parameters[name] = mx.contiguous(layer[name][:, start:end])
    if bias:
        parameters["bias"] = layer["bias"]
    size = parameters["scales"].shape[1] * layer.group_size
    with making_modules():
        made = nn.QuantizedLinear(size, parameters["weight"].shape[0], bias, layer.group_size, layer.bits)
    made.update(parameters)
    mx.eval(made.parameters())
    return made
