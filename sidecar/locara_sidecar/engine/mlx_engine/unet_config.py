"""The UNet's ``config.json``: which of diffusers' switches SDXL sets, and the rest refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_UNUSED = (
    "center_input_sample", "class_embed_type", "dual_cross_attention", "encoder_hid_dim_type", "only_cross_attention",
    "resnet_skip_time_act", "reverse_transformer_layers_per_block", "time_cond_proj_dim", "timestep_post_act",
)  # fmt: skip


@dataclass(frozen=True)
class UnetConfig:
    """``config.json``; of diffusers' switches only those of SDXL are known."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...]
    cross_attention_dim: int
    addition_embed_type: Literal["text_time"]
    addition_time_embed_dim: int
    projection_class_embeddings_input_dim: int
    use_linear_projection: bool
    attention_head_dim: int | tuple[int, ...] = 8  # really the number of heads, as diffusers says
    transformer_layers_per_block: int | tuple[int, ...] = 1
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int = 2
    act_fn: Literal["silu"] = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: Literal[0] = 0
    downsample_padding: Literal[1] = 1
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    resnet_time_scale_shift: Literal["default"] = "default"
    center_input_sample: bool = False
    class_embed_type: str | None = None
    dual_cross_attention: bool = False
    encoder_hid_dim_type: str | None = None
    only_cross_attention: bool = False
    resnet_skip_time_act: bool = False
    reverse_transformer_layers_per_block: list[int] | None = None
    time_cond_proj_dim: int | None = None
    timestep_post_act: str | None = None

    def __post_init__(self) -> None:
        if switched_on := [name for name in _UNUSED if getattr(self, name)]:
            raise ValueError(f"{switched_on[0]} is not supported")
        if not (self.use_linear_projection and self.flip_sin_to_cos):
            raise ValueError("use_linear_projection and flip_sin_to_cos must be true")
        levels = len(self.block_out_channels)
        per_level = (self.down_block_types, self.up_block_types, self.heads, self.depths)
        if any(len(values) != levels for values in per_level):
            raise ValueError("not one value a level")

    @property
    def heads(self) -> tuple[int, ...]:
        """Of each level, from the largest."""
        return self._per_level(self.attention_head_dim)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks a step of each level, from the largest."""
        return self._per_level(self.transformer_layers_per_block)

    @property
    def time_width(self) -> int:
        return 4 * self.block_out_channels[0]

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * len(self.block_out_channels) if isinstance(value, int) else value
