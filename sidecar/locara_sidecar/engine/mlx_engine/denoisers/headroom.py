"""Headroom for values that float16 cannot hold, beyond 65,504. In float32 and bfloat16 nothing here changes a number.

In these transformers two things grow from block to block, because only norms read them: the sums of branches, and the
values that a layer adds to them. With the published weights both leave float16's range:

- FLUX.1: the text's stream, and the sum in single blocks. diffusers clips both at 65,504 in float16 (its issue 9096
  and pull request 9097), and so does ComfyUI (8495). Draw Things keeps sums in float32 and computes the output of the
  last two double blocks' feed-forwards as an eighth (draw-things-community, ``Flux1.swift``).
- SD 3.5 Large: DiffusionKit widens its block 35, and runs SD 3 Medium in float16 as it is (its ``MMDiTConfig``). We
  found nothing about SD 3.5 Medium.
- Z-Image: gates times values reach 3e5, and the feed-forward 1e6.

So with weights in float16, sums are in float32. A layer that adds to them gets 64ths of its inputs, and its product is
multiplied by 64 in float32, where its bias is added: enough for 4e6. Everything from a norm, whose output is small, to
that layer is in float16: queries, keys, values, attention, hidden layers. (Weights that overflow even there give
numbers that are not finite, and the job fails with InvalidOutput.)

SDXL's UNet needs none of this: it is published in float16 and commonly runs in it. SDXL's autoencoder leaves the range
(hence madebyollin/sdxl-vae-fp16-fix). It and the other families' are marked (``force_upcast``) and are in float32.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

LESS = 64
"""A power of two, so dividing by it is exact. Only numbers below 4e-3 lose digits; their error is the same as at 4e-3.
"""


def summed(x: mx.array) -> mx.array:
    """Convert ``x`` to a type that can hold the sum of all branches."""
    return x.astype(mx.float32) if x.dtype == mx.float16 else x


def less(x: mx.array) -> mx.array:
    """Return ``x``; in float16, a 64th of it."""
    return x * (1 / LESS) if x.dtype == mx.float16 else x


def restored(layer: Any, x: mx.array) -> mx.array:
    """Apply a linear layer, quantized or not, to the result of :func:`less`; return the undivided output, in float32
    for float16.
    """
    if x.dtype != mx.float16:
        return layer(x)
    if isinstance(layer, nn.QuantizedLinear):
        weights = layer["weight"], layer["scales"], layer["biases"]
        return undivided(mx.quantized_matmul(x, *weights, group_size=layer.group_size, bits=layer.bits), layer)
    return undivided(x @ layer.weight.T, layer)


def undivided(product: mx.array, layer: Any) -> mx.array:
    """Return the output of a layer in float32.

    :param product: of the result of :func:`less` and the layer's weights, in float16.
    """
    y = product.astype(mx.float32) * LESS
    return y + layer["bias"] if "bias" in layer else y
