"""Components of published models in their true configuration, with random weights, in bfloat16 on disk.

Names and shapes are those that diffusers' and transformers' own classes make of the configuration; no memory is taken
for them. Weights are slices of one pool of normal numbers, so that writing is as fast as the disk; a model made of them
computes nonsense, but finite nonsense of about the right size.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHARD_BYTES = 10_000_000_000
"""The size of shards of published models."""
_POOL = 1 << 24
_SPREAD = 0.02
_BF16 = 2
_ONE = 0x3F80
"""In bfloat16: variances are not negative."""

FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
SD3: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64, "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048, "qk_norm": "rms_norm", "sample_size": 128,
}  # fmt: skip
UNET: dict[str, Any] = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "cross_attention_dim": 2048, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
T5: dict[str, Any] = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_4B: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "max_position_embeddings": 40960,
    "attention_bias": False, "use_sliding_window": False, "tie_word_embeddings": True,
}  # fmt: skip
Z_IMAGE: dict[str, Any] = {
    "all_patch_size": [2], "all_f_patch_size": [1], "in_channels": 16, "dim": 3840, "n_layers": 30,
    "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5, "qk_norm": True, "cap_feat_dim": 2560,
    "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
}  # fmt: skip
FLUX2_KLEIN: dict[str, Any] = {
    "patch_size": 1, "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 7680, "timestep_guidance_channels": 256, "mlp_ratio": 3.0,
    "axes_dims_rope": [32, 32, 32, 32], "rope_theta": 2000, "eps": 1e-6, "guidance_embeds": False,
}  # fmt: skip


class Published(NamedTuple):
    """A component of a published model: the class that runs it elsewhere, and its configuration."""

    library: str
    class_name: str
    config: dict[str, Any]

    @property
    def stem(self) -> str:
        return "model" if self.library == "transformers" else "diffusion_pytorch_model"


PUBLISHED = {
    "flux.1-dev": Published("diffusers", "FluxTransformer2DModel", FLUX),
    "sd3.5-medium": Published(
        "diffusers",
        "SD3Transformer2DModel",
        SD3
        | {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384}
        | {"dual_attention_layers": list(range(13))},
    ),
    "sd3.5-large": Published(
        "diffusers",
        "SD3Transformer2DModel",
        SD3 | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192},
    ),
    "sdxl-lightning": Published("diffusers", "UNet2DConditionModel", UNET),
    "z-image-turbo": Published("diffusers", "ZImageTransformer2DModel", Z_IMAGE),
    "flux.2-klein-4b": Published("diffusers", "Flux2Transformer2DModel", FLUX2_KLEIN),
    "qwen3-4b": Published("transformers", "Qwen3Model", QWEN3_4B),
    "t5-xxl": Published("transformers", "T5EncoderModel", T5),
}


def shapes(published: Published) -> dict[str, tuple[int, ...]]:
    """Return every tensor that the component's files hold."""
    import diffusers
    import torch
    import transformers

    with torch.device("meta"):
        if published.library == "diffusers":
            model = getattr(diffusers, published.class_name).from_config(published.config)
        else:
            cls = getattr(transformers, published.class_name)
            model = cls(cls.config_class.from_dict(published.config))
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for second in ("encoder.embed_tokens.weight", "lm_head.weight"):  # T5's name for the shared table, and Qwen3's
        found.pop(second, None)
    return found


def count(published: Published) -> int:
    """Parameters in all."""
    return sum(int(np.prod(shape)) for shape in shapes(published).values())


def write(folder: Path, published: Published, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the component into ``folder``, shard by shard.

    :returns: bytes of its weights.
    """
    folder.mkdir(parents=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes(published).items():
        size = _BF16 * int(np.prod(shape))
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    pool = _normals()
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"{published.stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / file, shard, pool)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(_BF16 * int(np.prod(shape)) for shard in shards for shape in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{published.stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    named = {"architectures": [published.class_name]} if published.stem == "model" else {}
    config = published.config | (named or {"_class_name": published.class_name})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return total


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], pool: NDArray[np.uint16]) -> None:
    """Write one safetensors file: the header's length, the header, the tensors one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + _BF16 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            left = int(np.prod(shape))
            numbers = np.full(left, _ONE, np.uint16) if name.endswith("running_var") else pool
            while left:
                part = numbers[: min(left, len(pool))]
                file.write(part.data)
                left -= len(part)


def _normals() -> NDArray[np.uint16]:
    """Return normally distributed numbers in bfloat16: the upper halves of float32."""
    numbers = np.random.default_rng(0).standard_normal(_POOL, dtype=np.float32) * np.float32(_SPREAD)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)
