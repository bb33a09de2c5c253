"""SDXL's denoiser against diffusers' UNet2DConditionModel."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
from locara_sidecar.engine.mlx_engine.pace import Pace
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from support.parity import TOLERANCES, build, error, randomise, save

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
SDXL = {
    "block_out_channels": (16, 32, 48), "down_block_types": (DOWN[0], DOWN[1], DOWN[1]), "layers_per_block": 2,
    "up_block_types": (UP[1], UP[1], UP[0]), "transformer_layers_per_block": (1, 2, 3), "attention_head_dim": (2, 4, 6),
    "cross_attention_dim": 24, "norm_num_groups": 8, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 20,
}  # fmt: skip


def make(folder, **changes):
    model = randomise(UNet2DConditionModel(**SDXL | changes))
    return model, build(Unet, save(model, folder, "unet", shard="300KB"))


def inputs(height=12, width=20):
    generator = torch.Generator().manual_seed(2)
    shapes = (2, 4, height, width), (2, 7, 24), (2, 20)
    sizes = torch.tensor([[1024.0, 512.0, 0.0, 0.0, 1024.0, 512.0], [96.0, 160.0, 8.0, 16.0, 200.0, 300.0]])
    return *(torch.randn(shape, generator=generator) for shape in shapes), sizes


def theirs_at(model, latent, tokens, pooled, sizes, timestep):
    added = {"text_embeds": pooled, "time_ids": sizes}
    with torch.no_grad():
        output = model(latent, timestep, encoder_hidden_states=tokens, added_cond_kwargs=added)
    return output.sample.permute(0, 2, 3, 1)


def ours_at(model, latent, tokens, pooled, sizes, timesteps, step, **options):
    latent, tokens, pooled, sizes = (
        mx.array(value.numpy()) for value in (latent.permute(0, 2, 3, 1), tokens, pooled, sizes)
    )
    by = model.steering(mx.array(timesteps), tokens, pooled, sizes).at(step)
    return model(latent, by, **options)


SWITCHES = [
    {},
    {"layers_per_block": 1, "transformer_layers_per_block": 1, "attention_head_dim": 4},
    {"down_block_types": (DOWN[1],) * 3, "up_block_types": (UP[1],) * 3},
    {"down_block_types": (DOWN[1], DOWN[0], DOWN[0])},
    # the shapes of SDXL's small relatives, which ComfyUI's table of UNets lists, too
    {
        "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [0, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },  # SSD-1B
    {
        "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [0, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 0],
    },  # Segmind Vega
    {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]},  # Koala 1B
    {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 5], "mid_block_type": None},  # Koala 700M
    {"layers_per_block": [1, 2, 3]},
    {"transformer_layers_per_block": [1, 0, [2, 1]], "reverse_transformer_layers_per_block": [0, [1, 2, 1], 3]},
    # not in any published relative
    {"freq_shift": 1},
    {"freq_shift": -1, "flip_sin_to_cos": False},
    {"center_input_sample": True},
    {"downsample_padding": 0},
    {"mid_block_scale_factor": 1.7},
    {"mid_block_scale_factor": 0.4, "mid_block_type": "UNetMidBlock2D"},
    {"resnet_out_scale_factor": 1.7, "resnet_skip_time_act": True, "cross_attention_norm": "layer_norm"},
    {"mid_block_only_cross_attention": True},
    *({"act_fn": name} for name in ("swish", "mish", "gelu", "relu")),
    {"time_embedding_act_fn": "mish", "timestep_post_act": "gelu", "time_embedding_dim": 40},
    {"resnet_time_scale_shift": "scale_shift"},
    {"conv_in_kernel": 5, "conv_out_kernel": 1},
    {"use_linear_projection": False},
    {"cross_attention_dim": [24, 24, 24]},
]  # fmt: skip


@pytest.mark.quick_cases("switches0", "switches5", "switches8")
@pytest.mark.parametrize("switches", SWITCHES)
def test_one_call_gives_what_diffusers_gives(tmp_path, switches):
    theirs, ours = make(tmp_path, **switches)
    given, times = inputs(), [999.0, 499.0, 249.0]
    for step, time in enumerate(times):
        assert error(ours_at(ours, *given, times, step), theirs_at(theirs, *given, time)) < TOLERANCES["transformer"]


@pytest.mark.parametrize("padding", [1, 0])
@pytest.mark.parametrize("size", [(13, 7), (5, 6), (1, 2), (16, 9)])
def test_sizes_that_cannot_be_halved_give_what_diffusers_gives(tmp_path, size, padding):
    if padding == 0 and min(size) < 4:
        pytest.skip("diffusers' own way down ends in nothing")
    theirs, ours = make(tmp_path, layers_per_block=1, downsample_padding=padding)
    given = inputs(*size)
    assert error(ours_at(ours, *given, [500.0], 0), theirs_at(theirs, *given, 500.0)) < TOLERANCES["transformer"]


@pytest.mark.slow
def test_a_call_stops_between_blocks_and_the_next_one_is_not_touched(tmp_path):
    _, ours = make(tmp_path)
    given, counted = inputs(), []
    whole = np.array(ours_at(ours, *given, [500.0], 0))
    paced = ours_at(ours, *given, [500.0], 0, pace=Pace(lambda: counted.append(1)))
    assert (np.array(paced) == whole).all()
    resnets, blocks = 3 * 2 + 1 + 3 * 3, 2 * (2 + 3) + 3 + 3 * (2 + 3)
    assert len(counted) == resnets + blocks
    for stop in (1, len(counted) // 2, len(counted)):
        passed = []

        def checkpoint(stop=stop, passed=passed):
            passed.append(1)
            if len(passed) == stop:
                raise JobCancelled

        with pytest.raises(JobCancelled):
            ours_at(ours, *given, [500.0], 0, pace=Pace(checkpoint))
        assert len(passed) == stop
    assert (np.array(ours_at(ours, *given, [500.0], 0)) == whole).all()


@pytest.mark.parametrize(
    "change",
    [
        {"use_linear_projection": False},
        {"addition_embed_type": None},
        {"cross_attention_dim": [24, 24]},
        {"down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]},
        {"attention_head_dim": [2, 4]},
        {"layers_per_block": 1},
        {"layers_per_block": [2, 2]},
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        {"transformer_layers_per_block": [1, 2, [3, 3]]},
        {"transformer_layers_per_block": [1, 2, [3]], "reverse_transformer_layers_per_block": [3, 2, 1]},
        {"reverse_transformer_layers_per_block": [[3, 3], 2, 1]},
        {"reverse_transformer_layers_per_block": [3, 2]},
    ],
)
def test_a_configuration_that_is_not_sdxls_is_refused(tmp_path, change):
    component = save(UNet2DConditionModel(**SDXL), tmp_path, "unet")
    component.config.update(change)
    with pytest.raises(EngineError) as caught:
        build(Unet, component)
    assert caught.value.kind == "IntegrityError"
