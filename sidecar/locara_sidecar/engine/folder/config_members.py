"""The members of models' configurations: allowed values, and which members have no effect.

They come from the signatures of diffusers 0.42 and transformers 5.23, and from repositories published from 2022 to
2026. Members that are *read* are passed to the engines, which may still reject values that they do not support.
*Harmless* ones are dropped, so that no library fails on them: they say where a file came from or how it was trained, or
belong to another class (schedulers keep the members of those that they were made from). A member in neither list might
change the picture, and is rejected by name.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from locara_sidecar.engine.folder import text_members
from locara_sidecar.engine.folder.member_rules import Rule, each, either, null, number, off, one_of, switch, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _nothing(config: Mapping[str, Any]) -> dict[str, Any]:
    del config
    return {}


class Members(NamedTuple):
    """The members of one class: rules for those that are read, and the names of those without effect.

    :param runs: by engine, for members with values that other engines support and this one does not: whether it
        supports a value.
    :param repeated: returns the required values of members that only repeat others, from what was read.
    """

    read: dict[str, Rule]
    harmless: frozenset[str]
    runs: Mapping[str, Mapping[str, Callable[[Any], bool]]] = MappingProxyType({})
    repeated: Callable[[Mapping[str, Any]], dict[str, Any]] = _nothing


_WIDTH = whole(1, 1 << 16)
_LEVELS = 16
_VAE_LEVELS = 7
"""Each doubles the side: up to 64 pixels per latent pixel. Also sets the size of the pictures to fit previews on."""
_LAYERS = whole(1, 1024)
_SMALL = number(0, 1)
_EPSILON = number(1e-12, 1)
_ANY = number(-1e6, 1e6)
_SCALE = number(1e-6, 1e6)
_TIMESTEPS = whole(2, 100_000)

_DIFFUSERS = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values"})
_AVERAGED = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)
"""What diffusers' moving average of weights adds to a configuration."""

_VAE: dict[str, Rule] = {
    "in_channels": whole(1, 1024),
    "out_channels": whole(1, 1024),
    "down_block_types": each(one_of("DownEncoderBlock2D"), _VAE_LEVELS),
    "up_block_types": each(one_of("UpDecoderBlock2D"), _VAE_LEVELS),
    "block_out_channels": each(_WIDTH, _VAE_LEVELS),
    "layers_per_block": whole(1, 64),
    "act_fn": one_of("silu"),
    "latent_channels": whole(1, 1024),
    "norm_num_groups": whole(1, 1024),
    "sample_size": whole(8, 1 << 16),
    "scaling_factor": _SCALE,
    "shift_factor": either(_ANY, null),
    "latents_mean": either(each(_ANY, 1024), null),
    "latents_std": either(each(_SCALE, 1024), null),
    "force_upcast": switch,
    "use_quant_conv": switch,
    "use_post_quant_conv": switch,
    "mid_block_add_attention": switch,
}

_SCALINGS = frozenset({"scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"})
_FLUX2_VAE: dict[str, Rule] = {name: rule for name, rule in _VAE.items() if name not in _SCALINGS} | {
    "decoder_block_out_channels": null,
    "batch_norm_eps": _EPSILON,
    "patch_size": each(one_of(2), 2, least=2),
}
"""Its latents are scaled by statistics among the weights."""

_TINY: dict[str, Rule] = {
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "encoder_block_out_channels": each(_WIDTH, _VAE_LEVELS),
    "decoder_block_out_channels": each(_WIDTH, _VAE_LEVELS),
    "act_fn": one_of("relu"),
    "upsample_fn": one_of("nearest"),
    "latent_channels": whole(1, 1024),
    "upsampling_scaling_factor": whole(1, 64),
    "num_encoder_blocks": each(whole(0, 64), _VAE_LEVELS),
    "num_decoder_blocks": each(whole(0, 64), _VAE_LEVELS),
    "scaling_factor": _SCALE,
    "shift_factor": either(_ANY, null),
    "latents_mean": either(each(_ANY, 1024), null),
    "latents_std": either(each(_SCALE, 1024), null),
    "force_upcast": switch,
}
_TINY_HARMLESS = frozenset({"latent_magnitude", "latent_shift", "block_out_channels"})
"""For showing latents as pictures, which we do not do; the last one repeats the widths."""

_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D",
         "SimpleCrossAttnDownBlock2D", "KDownBlock2D", "KCrossAttnDownBlock2D")  # fmt: skip
_UP = ("UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D",
       "KUpBlock2D", "KCrossAttnUpBlock2D")  # fmt: skip
_UNET_ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")
_ODD = range(1, 32, 2)
"""Kernel sizes of a convolution; an even one would change the size of the picture."""
_DEEP = whole(0, 1024)
_DEPTH = either(_DEEP, each(either(_DEEP, each(_DEEP, 64)), _LEVELS))
_HEADS = either(_LAYERS, each(_LAYERS, _LEVELS))
_UNET: dict[str, Rule] = {
    "sample_size": either(_WIDTH, each(_WIDTH, 2, least=2), null),
    "in_channels": whole(1, 1024),
    "out_channels": whole(1, 1024),
    "center_input_sample": switch,
    "flip_sin_to_cos": switch,
    "freq_shift": whole(-1, 1),
    "down_block_types": each(one_of(*_DOWN), _LEVELS),
    "mid_block_type": either(
        one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D"), null
    ),
    "up_block_types": each(one_of(*_UP), _LEVELS),
    "only_cross_attention": either(switch, each(switch, _LEVELS)),
    "block_out_channels": each(_WIDTH, _LEVELS),
    "layers_per_block": either(whole(1, 64), each(whole(1, 64), _LEVELS)),
    "downsample_padding": whole(0, 1),  # with more, the way up would get pictures of other sizes
    "mid_block_scale_factor": number(1e-3, 1e3),
    "act_fn": _UNET_ACTIVATION,
    "norm_num_groups": whole(1, 1024),
    "norm_eps": _EPSILON,
    "cross_attention_dim": either(_WIDTH, each(_WIDTH, _LEVELS)),
    "transformer_layers_per_block": _DEPTH,
    "reverse_transformer_layers_per_block": either(null, _DEPTH),
    "attention_head_dim": _HEADS,
    "num_attention_heads": null,  # diffusers takes the number of heads from attention_head_dim
    "dual_cross_attention": switch,
    "use_linear_projection": switch,
    "addition_embed_type": one_of("text_time"),
    "addition_time_embed_dim": _WIDTH,
    "addition_embed_type_num_heads": _LAYERS,
    "projection_class_embeddings_input_dim": _WIDTH,
    "upcast_attention": switch,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "resnet_skip_time_act": switch,
    "resnet_out_scale_factor": number(1e-3, 1e3),
    "time_embedding_dim": either(null, _WIDTH),
    "time_embedding_act_fn": either(null, _UNET_ACTIVATION),
    "timestep_post_act": either(null, _UNET_ACTIVATION),
    "conv_in_kernel": one_of(*_ODD),
    "conv_out_kernel": one_of(*_ODD),
    "cross_attention_norm": either(null, one_of("layer_norm", "group_norm")),
    "mid_block_only_cross_attention": switch,
    # the options below need a further input, which text pipelines do not provide
    "class_embed_type": null,
    "num_class_embeds": null,
    "class_embeddings_concat": off,
    "encoder_hid_dim": null,
    "encoder_hid_dim_type": null,
    "time_cond_proj_dim": null,
    "time_embedding_type": one_of("positional"),
    "attention_type": one_of("default"),
}

_SD3: dict[str, Rule] = {
    "sample_size": _WIDTH,
    "patch_size": whole(1, 16),
    "in_channels": whole(1, 1024),
    "num_layers": _LAYERS,
    "attention_head_dim": _WIDTH,
    "num_attention_heads": _LAYERS,
    "joint_attention_dim": _WIDTH,
    "caption_projection_dim": _WIDTH,
    "pooled_projection_dim": _WIDTH,
    "out_channels": either(whole(1, 1024), null),
    "pos_embed_max_size": whole(1, 1024),
    "dual_attention_layers": each(whole(0, 1023), 1024, least=0),
    "qk_norm": either(null, one_of("rms_norm", "layer_norm", "fp32_layer_norm")),
}

_BOTH_FLUX: dict[str, Rule] = {
    "patch_size": one_of(1),
    "in_channels": whole(1, 4096),
    "out_channels": either(whole(1, 4096), null),
    "num_layers": _LAYERS,
    "num_single_layers": _LAYERS,
    "attention_head_dim": _WIDTH,
    "num_attention_heads": _LAYERS,
    "joint_attention_dim": _WIDTH,
}
"""What FLUX.1 and FLUX.2 have in common."""

_FLUX: dict[str, Rule] = _BOTH_FLUX | {
    "pooled_projection_dim": _WIDTH,
    "guidance_embeds": switch,
    "axes_dims_rope": each(whole(2, 4096), 3, least=3),
}

_FLUX2: dict[str, Rule] = _BOTH_FLUX | {
    "timestep_guidance_channels": one_of(256),
    "mlp_ratio": number(1e-3, 1e3),
    "axes_dims_rope": each(whole(2, 4096), 4, least=4),
    "rope_theta": number(1, 1e9),
    "eps": _EPSILON,
    "guidance_embeds": off,  # [klein] has none, and its pipeline passes none
}

_Z_IMAGE: dict[str, Rule] = {
    "all_patch_size": each(one_of(2), 1),
    "all_f_patch_size": each(one_of(1), 1),
    "in_channels": whole(1, 1024),
    "dim": _WIDTH,
    "n_layers": _LAYERS,
    "n_refiner_layers": whole(0, 64),
    "n_heads": _LAYERS,
    "n_kv_heads": _LAYERS,  # as many as n_heads: diffusers does not read it
    "norm_eps": _EPSILON,
    "qk_norm": switch,
    "cap_feat_dim": _WIDTH,
    "siglip_feat_dim": null,
    "rope_theta": number(1, 1e9),
    "t_scale": number(1e-3, 1e6),
    "axes_dims": each(whole(2, 4096), 3, least=3),
    "axes_lens": each(whole(1, 1 << 16), 3, least=3),
}

_SIGMAS: dict[str, Rule] = {
    "use_karras_sigmas": switch,
    "use_exponential_sigmas": switch,
    "use_beta_sigmas": off,  # needs scipy, which neither engine has
}
_BETAS: dict[str, Rule] = {
    "num_train_timesteps": _TIMESTEPS,
    "beta_start": number(1e-9, 0.999),
    "beta_end": number(1e-9, 0.999),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": either(null, each(number(0, 0.999999), 100_000)),
    "prediction_type": one_of("epsilon", "v_prediction"),
    "timestep_spacing": one_of("linspace", "leading", "trailing"),
    "steps_offset": whole(0, 1000),
    "rescale_betas_zero_snr": switch,
}
_FLOW_MATCH: dict[str, Rule] = _SIGMAS | {
    "num_train_timesteps": _TIMESTEPS,
    "shift": number(1e-3, 1e3),
    "use_dynamic_shifting": switch,
    "base_shift": number(-20, 20),
    "max_shift": number(-20, 20),
    "base_image_seq_len": whole(1, 1 << 24),
    "max_image_seq_len": whole(1, 1 << 24),
    "invert_sigmas": switch,
    "shift_terminal": either(null, number(1e-6, 0.999)),
    "time_shift_type": one_of("exponential", "linear"),
    "stochastic_sampling": off,  # its random numbers would not depend on the seed
}
_LAST = one_of("zero", "sigma_min")
_SIGMA = either(null, number(1e-9, 1e6))
_EULER: dict[str, Rule] = (
    _BETAS
    | _SIGMAS
    | {
        "prediction_type": one_of("epsilon", "v_prediction", "sample", "original_sample"),
        "interpolation_type": one_of("linear", "log_linear"),
        "sigma_min": _SIGMA,
        "sigma_max": _SIGMA,
        "timestep_type": one_of("discrete", "continuous"),
        "final_sigmas_type": _LAST,
    }
)
_DPM: dict[str, Rule] = (
    _BETAS
    | _SIGMAS
    | {
        "solver_order": whole(1, 3),
        "thresholding": switch,
        "dynamic_thresholding_ratio": _SMALL,
        "sample_max_value": _SCALE,
        "prediction_type": one_of("epsilon", "v_prediction", "sample"),
        "algorithm_type": one_of("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"),
        "solver_type": one_of("midpoint", "heun", "logrho", "bh1", "bh2"),
        "lower_order_final": switch,
        "euler_at_final": switch,
        "use_lu_lambdas": switch,
        "use_flow_sigmas": switch,
        "flow_shift": number(1e-3, 1e3),
        "final_sigmas_type": _LAST,
        "lambda_min_clipped": either(number(-1e6, 1e6), one_of(-math.inf)),
        "variance_type": either(null, one_of("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")),
        "use_dynamic_shifting": switch,
        "time_shift_type": one_of("exponential", "linear"),
    }
)
_OTHER_SCHEDULERS = frozenset(
    {"clip_sample", "clip_sample_range", "set_alpha_to_one", "skip_prk_steps", "predict_epsilon", "solver_p",
     "disable_corrector", "predict_x0", "eta", "original_inference_steps", "timestep_scaling", "sigma_data", "rho",
     "sigma_schedule", "noise_sampler_seed", "use_noise_sampler", "s_noise", "mid_point", "lu_lambdas"}
)  # fmt: skip


def _scheduler(read: dict[str, Rule], *others: dict[str, Rule]) -> Members:
    """Allow, without effect, members of the schedulers that a scheduler may have been made from.

    :param others: rules for members of those that may be made from it, when a job asks for another scheduler.
    """
    for rules in others:
        read = rules | read
    foreign = (_FLOW_MATCH.keys() | _OTHER_SCHEDULERS) - read.keys()
    return Members(read, _DIFFUSERS | frozenset(foreign))


_MLX_DOWN, _MLX_UP = frozenset({"DownBlock2D", "CrossAttnDownBlock2D"}), frozenset({"UpBlock2D", "CrossAttnUpBlock2D"})


def _off_everywhere(value: Any) -> bool:
    return not any(cast("list[Any]", value)) if isinstance(value, list) else not value


_MLX_UNET: dict[str, Callable[[Any], bool]] = {
    "down_block_types": _MLX_DOWN.issuperset,
    "mid_block_type": lambda value: value != "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": _MLX_UP.issuperset,
    "only_cross_attention": _off_everywhere,
    "dual_cross_attention": _off_everywhere,
}
"""No published model of a supported family has other values."""

_CLIP_MEMBERS = Members(text_members.CLIP, text_members.TRANSFORMERS)
_QWEN3_MEMBERS = Members(
    text_members.QWEN3,
    text_members.TRANSFORMERS | text_members.QWEN3_HARMLESS,
    repeated=text_members.qwen3_repeated,
)
CLASSES: dict[str, Members] = {
    "AutoencoderKL": Members(_VAE, _DIFFUSERS | _AVERAGED),
    "AutoencoderKLFlux2": Members(_FLUX2_VAE, _DIFFUSERS | _AVERAGED | {"batch_norm_momentum", "force_upcast"}),
    "AutoencoderTiny": Members(_TINY, _DIFFUSERS | _TINY_HARMLESS),
    "UNet2DConditionModel": Members(_UNET, _DIFFUSERS | _AVERAGED | {"dropout"}, {"mlx": _MLX_UNET}),
    "SD3Transformer2DModel": Members(_SD3, _DIFFUSERS | _AVERAGED),
    "FluxTransformer2DModel": Members(_FLUX, _DIFFUSERS | _AVERAGED),
    "Flux2Transformer2DModel": Members(_FLUX2, _DIFFUSERS | _AVERAGED),
    "ZImageTransformer2DModel": Members(_Z_IMAGE, _DIFFUSERS | _AVERAGED),
    "CLIPTextModel": _CLIP_MEMBERS,
    "CLIPTextModelWithProjection": _CLIP_MEMBERS,
    "T5EncoderModel": Members(
        text_members.T5, text_members.TRANSFORMERS | text_members.T5_HARMLESS, repeated=text_members.t5_repeated
    ),
    "Qwen3Model": _QWEN3_MEMBERS,
    "Qwen3ForCausalLM": _QWEN3_MEMBERS,
    "FlowMatchEulerDiscreteScheduler": Members(
        _FLOW_MATCH, _DIFFUSERS | frozenset((_EULER.keys() | _DPM.keys() | _OTHER_SCHEDULERS) - _FLOW_MATCH.keys())
    ),
    "EulerDiscreteScheduler": _scheduler(_EULER, _DPM),
    "EulerAncestralDiscreteScheduler": _scheduler(_BETAS, _EULER, _DPM),
    "DPMSolverMultistepScheduler": _scheduler(_DPM, _EULER),
}
