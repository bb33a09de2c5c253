"""What one denoising step of each family is given, in its true size: random arrays in the shapes that the family's
loop hands to its denoiser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit
from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageTransformer
from locara_sidecar.engine.mlx_engine.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = (900.0, 500.0)


class Denoiser(NamedTuple):
    """How a family's denoiser is measured.

    ``tiny`` replaces members of the configuration for a trial run. ``prepare`` makes the step's input for a picture of
    ``size`` pixels a side, and returns a function that evaluates the network once.
    """

    cls: Any
    tiny: dict[str, Any]
    prepare: Callable[[Any, int], Callable[[], mx.array]]


def _random(module: Any, *shape: int) -> mx.array:
    """Return random numbers in the type of the network's weights."""
    types: set[mx.Dtype] = {value.dtype for _, value in cast("Any", tree_flatten)(module.parameters())}
    (dtype,) = (of for of in types if mx.issubdtype(of, mx.floating))
    return mx.random.normal(shape).astype(dtype)


def _pace() -> Pace:
    return Pace(lambda: None)


def _sd3(module: Any, size: int) -> Callable[[], mx.array]:
    """With guidance, as it draws: two rows at once. CLIP's 77 tokens and T5's 256."""
    config = module.config
    latent = _random(module, 2, size // 8, size // 8, config.in_channels)
    text = module.words(_random(module, 2, 333, config.joint_attention_dim))
    steering = module.modulation(mx.array(TIMES), _random(module, 2, config.pooled_projection_dim))
    mx.eval(latent, text, steering)
    return lambda: module(latent, text, steering.at(0), pace=_pace())


def _flux(module: Any, size: int) -> Callable[[], mx.array]:
    config, side = module.config, size // 8
    latent = _random(module, 1, side, side, config.in_channels // 4)
    text = module.words(_random(module, 1, 512, config.joint_attention_dim))
    steering = module.modulation(mx.array(TIMES), _random(module, 1, config.pooled_projection_dim), 3.5)
    rotation = module.rotation(512, (side, side))
    mx.eval(latent, text, steering, rotation)
    return lambda: module(latent, text, steering.at(0), rotation, pace=_pace())


def _flux2(module: Any, size: int) -> Callable[[], mx.array]:
    config, side = module.config, size // 16
    latent = _random(module, 1, side, side, config.in_channels)
    text = module.words(_random(module, 1, 512, config.joint_attention_dim))
    steering, rotation = module.modulation(mx.array(TIMES)), module.rotation(512, (side, side))
    mx.eval(latent, text, steering, rotation)
    return lambda: module(latent, text, steering.at(0), rotation, pace=_pace())


def _z_image(module: Any, size: int) -> Callable[[], mx.array]:
    """A prompt of 64 tokens: it is not padded."""
    config, side = module.config, size // 8
    latent, places = _random(module, 1, side, side, config.in_channels), module.places(64, side, side)
    text = module.refined(_random(module, 1, 64, config.cap_feat_dim), places, _pace())
    steering = module.modulation(mx.array(TIMES))
    mx.eval(latent, text, steering, places)
    return lambda: module(latent, text, steering.at(0), places, _pace())


def _sdxl(module: Any, size: int) -> Callable[[], mx.array]:
    """Without guidance, as SDXL Lightning draws: one row."""
    config, side = module.config, size // 8
    latent, tokens = (
        _random(module, 1, side, side, config.in_channels),
        _random(module, 1, 77, config.cross_attention_dim),
    )
    pooled = _random(module, 1, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)
    sizes = mx.array([[size, size, 0, 0, size, size]])
    steering = module.steering(mx.array(TIMES), tokens, pooled, sizes)
    mx.eval(latent, steering)
    return lambda: module(latent, steering.at(0), _pace())


_FEW = {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64, "attention_head_dim": 64}
_MMDIT = _FEW | {"pooled_projection_dim": 64, "caption_projection_dim": 128, "pos_embed_max_size": 64}
_SINGLES = {"num_single_layers": 2, "axes_dims_rope": [16, 24, 24]}

DENOISERS = {
    "sd3.5-medium": Denoiser(Mmdit, _MMDIT | {"dual_attention_layers": [0]}, _sd3),
    "sd3.5-large": Denoiser(Mmdit, _MMDIT, _sd3),
    "flux.1-dev": Denoiser(Flux, _FEW | _SINGLES | {"pooled_projection_dim": 64}, _flux),
    "flux.2-klein-4b": Denoiser(Flux2Transformer, _FEW | _SINGLES | {"axes_dims_rope": [16] * 4}, _flux2),
    "sdxl-lightning": Denoiser(
        Unet,
        {"block_out_channels": [32, 64, 64], "attention_head_dim": [1, 1, 1], "transformer_layers_per_block": [1, 1, 1]}
        | {"cross_attention_dim": 64},
        _sdxl,
    ),
    "z-image-turbo": Denoiser(
        ZImageTransformer,
        {"dim": 128, "n_heads": 2, "n_layers": 2, "n_refiner_layers": 1, "cap_feat_dim": 64, "axes_dims": [16, 24, 24]},
        _z_image,
    ),
}
"""By the name of the model in ``support.synthetic.PUBLISHED``."""
