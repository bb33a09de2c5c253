"""The UNet's ``config.json``.

``config_check.py`` has already rejected what only torch's classes support. A few members (``resnet_out_scale_factor``,
``cross_attention_norm`` …) affect only other kinds of blocks.

Related models are SDXL with parts removed: SSD-1B has other numbers of transformer blocks and no attention in the
middle; Koala has one residual block per level, and its smaller version no middle at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Depths = tuple[int | tuple[int, ...], ...]
"""Transformer blocks after each residual block, per level: one number for all of them or one for each."""


@dataclass(frozen=True)
class UnetConfig:
    """``config.json``, with diffusers' defaults."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...]
    cross_attention_dim: int | tuple[int, ...]  # the same for all levels, because there is one text
    addition_embed_type: Literal["text_time"]
    addition_time_embed_dim: int
    projection_class_embeddings_input_dim: int
    use_linear_projection: bool = False
    attention_head_dim: int | tuple[int, ...] = 8  # actually the number of heads, as in diffusers
    transformer_layers_per_block: int | Depths = 1
    reverse_transformer_layers_per_block: Depths | None = None
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int | tuple[int, ...] = 2
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    downsample_padding: Literal[0, 1] = 1
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    mid_block_scale_factor: float = 1.0
    center_input_sample: bool = False
    time_embedding_dim: int | None = None
    time_embedding_act_fn: str | None = None
    timestep_post_act: str | None = None

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        per_level = (self.down_block_types, self.up_block_types, self.heads, self.layers, self._depths, self._reverse)
        per_level += (self._per_level(self.cross_attention_dim),)
        if any(len(values) != levels for values in per_level):
            raise ValueError("a setting does not have one value per level")
        nested = any(isinstance(depth, tuple) for depth in self._depths)
        if nested and self.reverse_transformer_layers_per_block is None:
            raise ValueError("transformer_layers_per_block has lists without reverse_transformer_layers_per_block")
        for level, kind in enumerate(self.down_block_types):
            if kind == "CrossAttnDownBlock2D" and len(self.down_depths(level)) < self.layers[level]:
                raise ValueError("transformer_layers_per_block must have one value for each residual block")
        for i, kind in enumerate(self.up_block_types):
            level = levels - 1 - i
            if kind == "CrossAttnUpBlock2D" and len(self.up_depths(level)) < self.layers[level] + 1:
                raise ValueError("reverse_transformer_layers_per_block must have one value for each residual block")

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of heads per level, from the largest."""
        return self._per_level(self.attention_head_dim)

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks per level on the way down, from the largest; there is one more on the way up."""
        return self._per_level(self.layers_per_block)

    def down_depths(self, level: int) -> tuple[int, ...]:
        """Return the number of transformer blocks after each residual block of a level, on the way down."""
        return _each(self._depths[level], self.layers[level])

    def up_depths(self, level: int) -> tuple[int, ...]:
        """Return the number of transformer blocks after each residual block of a level, on the way up."""
        return _each(self._reverse[len(self.block_out_channels) - 1 - level], self.layers[level] + 1)

    @property
    def middle_depth(self) -> int | None:
        """Transformer blocks between the two residual blocks in the middle; None if there is only one."""
        return _each(self._depths[-1], 1)[0] if self.mid_block_type == "UNetMidBlock2DCrossAttn" else None

    @property
    def time_width(self) -> int:
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def text_width(self) -> int:
        return self._per_level(self.cross_attention_dim)[0]

    @property
    def _depths(self) -> Depths:
        depths = self.transformer_layers_per_block
        return (depths,) * len(self.block_out_channels) if isinstance(depths, int) else depths

    @property
    def _reverse(self) -> Depths:
        reverse = self.reverse_transformer_layers_per_block
        return self._depths[::-1] if reverse is None else reverse

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * len(self.block_out_channels) if isinstance(value, int) else value


def _each(depth: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    return (depth,) * count if isinstance(depth, int) else depth
