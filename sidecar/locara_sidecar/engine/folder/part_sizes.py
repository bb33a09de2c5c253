"""Check that a model's components fit together, by the numbers in their configurations.

A text encoder wider than the denoiser's input, or a latent with other channels, would otherwise fail only in the first
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.engine.folder.model_folder import broken
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = dict[str, Any]
_CLIP: Config = {
    "hidden_size": 512,
    "projection_dim": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_T5: Config = {"d_model": 512, "num_layers": 6, "vocab_size": 32128}
_VAE: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [64],
    "norm_num_groups": 32,
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
}
_SD3: Config = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 18,
    "attention_head_dim": 64,
    "num_layers": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "dual_attention_layers": [],
}
_FLUX: Config = {
    "in_channels": 64,
    "out_channels": None,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 19,
    "num_single_layers": 38,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": [16, 56, 56],
}
_QWEN3: Config = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 151936,
}
_Z_IMAGE: Config = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 512, 512],
}
_FLUX2_VAE: Config = _VAE | {
    "latent_channels": 32,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_FLUX2: Config = {
    "in_channels": 128,
    "out_channels": None,
    "num_attention_heads": 48,
    "attention_head_dim": 128,
    "num_layers": 8,
    "num_single_layers": 48,
    "joint_attention_dim": 15360,
    "axes_dims_rope": [32, 32, 32, 32],
}
_UNET: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 1280,
    "norm_num_groups": 32,
    "freq_shift": 0,
}
DEFAULTS: dict[str, Config] = {
    "CLIPTextModel": _CLIP,
    "CLIPTextModelWithProjection": _CLIP,
    "T5EncoderModel": _T5,
    "Qwen3Model": _QWEN3,
    "Qwen3ForCausalLM": _QWEN3,
    "ZImageTransformer2DModel": _Z_IMAGE,
    "AutoencoderKL": _VAE,
    "AutoencoderKLFlux2": _FLUX2_VAE,
    "Flux2Transformer2DModel": _FLUX2,
    "SD3Transformer2DModel": _SD3,
    "FluxTransformer2DModel": _FLUX,
    "UNet2DConditionModel": _UNET,
}
"""The defaults of diffusers and transformers for members that are used here."""


def layers(class_name: str, config: Config) -> int:
    """Return a lower bound of the number of blocks in a network of that configuration."""
    whole = DEFAULTS.get(class_name, {}) | config
    names = ("num_hidden_layers", "num_layers", "num_single_layers", "n_layers", "n_refiner_layers")
    return sum(whole.get(name) or 0 for name in names) + _levels(whole)


def words(config: Config) -> int:
    """Return the vocabulary size of a text encoder of that configuration."""
    default = _T5 if "d_model" in config or "d_ff" in config else _QWEN3 if _is_qwen3(config) else _CLIP
    return (default | config)["vocab_size"]


def _is_qwen3(config: Config) -> bool:
    """Whether a text encoder's members are Qwen3's, and not CLIP's."""
    return not config.keys().isdisjoint({"head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta"})


def _levels(config: Config) -> int:
    channels = config.get("block_out_channels")
    if not isinstance(channels, list):
        return 0
    count = len(cast("list[int]", channels))
    blocks, depths = (
        _a_level(config["layers_per_block"], count),
        _a_level(config.get("transformer_layers_per_block", 0), count),
    )
    return sum(block * max(depth, 1) for block, depth in zip(blocks, depths, strict=False))


def _a_level(value: Any, count: int) -> list[int]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value] * count
    return [max(cast("list[int]", item)) if isinstance(item, list) else item for item in values]


def require_fit(pipeline: str, configs: Mapping[str, Config]) -> None:
    """Require that the configurations fit together.

    :raises EngineError: IntegrityError naming the one that does not fit the others.
    """
    row = next((row for row in FAMILIES.values() if row.pipeline == pipeline), None)
    vae = DEFAULTS["AutoencoderKL" if row is None else row.autoencoder] | configs["vae"]
    _require_vae(vae)
    for name, config in configs.items():
        if name.startswith("text_encoder") and "num_attention_heads" in config and not _is_qwen3(config):
            clip = _CLIP | config
            _require(name, "num_attention_heads", clip["hidden_size"] % clip["num_attention_heads"] == 0)
    if row is not None and row.network in _DENOISERS:
        _DENOISERS[row.network](configs, vae)


def _require_vae(vae: Config) -> None:
    levels, groups = vae["block_out_channels"], vae["norm_num_groups"]
    for name in ("down_block_types", "up_block_types"):
        _require("vae", name, len(vae[name]) == len(levels))
    _require("vae", "norm_num_groups", all(width % groups == 0 for width in levels))
    _require("vae", "in_channels", vae["in_channels"] == 3)
    _require("vae", "out_channels", vae["out_channels"] == 3)
    mean, deviation = vae.get("latents_mean"), vae.get("latents_std")
    for name, value in (("latents_mean", mean), ("latents_std", deviation)):
        _require("vae", name, value is None or len(value) == vae["latent_channels"])
    _require("vae", "latents_std", (mean is None) == (deviation is None))


def _require_flow_match(vae: Config) -> None:
    """Reject per-channel means and deviations, which these pipelines do not support.

    :raises EngineError: IntegrityError.
    """
    if vae.get("latents_mean") is not None:
        raise broken("vae/config.json", "its latents_mean and latents_std are not read by pipelines of this kind")


def _require_sd3(configs: Mapping[str, Config], vae: Config) -> None:
    _require_flow_match(vae)
    transformer = _SD3 | configs["transformer"]
    _require("transformer", "sample_size", transformer["sample_size"] >= transformer["patch_size"])
    _require_inputs("transformer", transformer, vae["latent_channels"])
    out = transformer["out_channels"]
    _require("transformer", "out_channels", out in (None, transformer["in_channels"]))
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    _require("transformer", "caption_projection_dim", transformer["caption_projection_dim"] == width)
    _require(
        "transformer",
        "dual_attention_layers",
        all(layer < transformer["num_layers"] for layer in transformer["dual_attention_layers"]),
    )
    clips = [_CLIP | configs[name] for name in ("text_encoder", "text_encoder_2")]
    for name, clip in zip(("text_encoder", "text_encoder_2"), clips, strict=True):
        _require(name, "num_hidden_layers", clip["num_hidden_layers"] >= 2)
    joint, pooled = transformer["joint_attention_dim"], transformer["pooled_projection_dim"]
    _require("transformer", "joint_attention_dim", sum(clip["hidden_size"] for clip in clips) <= joint)
    _require("transformer", "pooled_projection_dim", sum(clip["projection_dim"] for clip in clips) == pooled)
    if "text_encoder_3" in configs:
        _require("text_encoder_3", "d_model", (_T5 | configs["text_encoder_3"])["d_model"] == joint)


def _require_flux(configs: Mapping[str, Config], vae: Config) -> None:
    _require_flow_match(vae)
    transformer = _FLUX | configs["transformer"]
    _require_inputs("transformer", transformer, 4 * vae["latent_channels"])
    _require("transformer", "out_channels", transformer["out_channels"] in (None, transformer["in_channels"]))
    axes = transformer["axes_dims_rope"]
    whole = sum(axes) == transformer["attention_head_dim"] and all(size % 2 == 0 for size in axes)
    _require("transformer", "axes_dims_rope", whole)
    clip, t5 = _CLIP | configs["text_encoder"], _T5 | configs["text_encoder_2"]
    _require("transformer", "pooled_projection_dim", transformer["pooled_projection_dim"] == clip["hidden_size"])
    _require("text_encoder_2", "d_model", t5["d_model"] == transformer["joint_attention_dim"])


def _require_z_image(configs: Mapping[str, Config], vae: Config) -> None:
    _require_flow_match(vae)
    transformer = _Z_IMAGE | configs["transformer"]
    _require_inputs("transformer", transformer, vae["latent_channels"])
    axes = transformer["axes_dims"]
    whole = sum(axes) * transformer["n_heads"] == transformer["dim"] and all(size % 2 == 0 for size in axes)
    _require("transformer", "axes_dims", whole)
    qwen = _require_qwen3(configs, FAMILIES["z-image"].taps)
    _require("transformer", "cap_feat_dim", transformer["cap_feat_dim"] == qwen["hidden_size"])


def _require_flux2(configs: Mapping[str, Config], vae: Config) -> None:
    transformer = _FLUX2 | configs["transformer"]
    _require_inputs("transformer", transformer, 4 * vae["latent_channels"])
    _require("transformer", "out_channels", transformer["out_channels"] in (None, transformer["in_channels"]))
    axes = transformer["axes_dims_rope"]
    whole = sum(axes) == transformer["attention_head_dim"] and all(size % 2 == 0 for size in axes)
    _require("transformer", "axes_dims_rope", whole)
    taps = FAMILIES["flux2"].taps
    qwen = _require_qwen3(configs, taps)
    wide = len(taps) * qwen["hidden_size"]
    _require("transformer", "joint_attention_dim", transformer["joint_attention_dim"] == wide)


def _require_qwen3(configs: Mapping[str, Config], taps: tuple[int, ...]) -> Config:
    """:param taps: the states between its layers that the pipeline reads, none of which is normalized: the one after
    the last layer would be.
    """
    least = max(tap + 1 if tap >= 0 else -tap for tap in taps)
    qwen = _QWEN3 | configs["text_encoder"]
    keys = qwen["num_key_value_heads"] or qwen["num_attention_heads"]
    _require("text_encoder", "num_key_value_heads", qwen["num_attention_heads"] % keys == 0)
    _require("text_encoder", "head_dim", qwen["head_dim"] % 2 == 0)
    _require("text_encoder", "num_hidden_layers", qwen["num_hidden_layers"] >= least)
    types = qwen.get("layer_types")
    _require("text_encoder", "layer_types", types is None or len(types) == qwen["num_hidden_layers"])
    return qwen


def _require_sdxl(configs: Mapping[str, Config], vae: Config) -> None:
    if vae.get("shift_factor"):
        raise broken("vae/config.json", "its shift_factor is not read by pipelines of this kind")
    unet = _UNET | configs["unet"]
    _require_inputs("unet", unet, vae["latent_channels"])
    _require("unet", "out_channels", unet["out_channels"] == vae["latent_channels"])
    clips = [_CLIP | configs[name] for name in ("text_encoder", "text_encoder_2")]
    for name, clip in zip(("text_encoder", "text_encoder_2"), clips, strict=True):
        _require(name, "num_hidden_layers", clip["num_hidden_layers"] >= 2)
    wide = unet["cross_attention_dim"]
    widths = set(cast("list[int]", wide)) if isinstance(wide, list) else {wide}
    _require("unet", "cross_attention_dim", widths == {sum(clip["hidden_size"] for clip in clips)})
    for name in ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        if unet.get(name) is None:
            raise broken("unet/config.json", f"it has no {name}, which this pipeline needs")
    for width in (unet["block_out_channels"][0], unet["addition_time_embed_dim"]):
        _require("unet", "freq_shift", width // 2 > unet["freq_shift"])  # otherwise frequencies would be 0 / 0
    given = 6 * unet["addition_time_embed_dim"] + clips[1]["projection_dim"]
    _require("unet", "projection_class_embeddings_input_dim", unet["projection_class_embeddings_input_dim"] == given)


def _require_inputs(part: str, denoiser: Config, latent: int) -> None:
    """Require that a denoiser sees a latent and nothing else.

    :param latent: the latent's channels, as the denoiser sees them.
    :raises EngineError: IntegrityError. A denoiser with more input than output channels also expects a mask, a picture
        or a control.
    """
    if denoiser["in_channels"] > latent == denoiser["out_channels"]:
        why = f"its in_channels is {denoiser['in_channels']}, and a latent has {latent}"
        what = "networks that see a mask, a picture or a control beside it (inpainting, fill, edit models)"
        raise broken(f"{part}/config.json", f"{why}: {what} are not run")
    _require(part, "in_channels", denoiser["in_channels"] == latent)


def _require(part: str, member: str, fits: object) -> None:
    if not fits:
        raise broken(f"{part}/config.json", f"its {member} does not fit the rest of the model")


_DENOISERS = {
    "SD3Transformer2DModel": _require_sd3,
    "FluxTransformer2DModel": _require_flux,
    "UNet2DConditionModel": _require_sdxl,
    "ZImageTransformer2DModel": _require_z_image,
    "Flux2Transformer2DModel": _require_flux2,
}
"""What each denoiser requires of the other components."""
