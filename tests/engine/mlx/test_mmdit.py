"""SD3's transformer against diffusers' SD3Transformer2DModel, and what float16 does to it."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit
from locara_sidecar.engine.mlx_engine.pace import Pace
from locara_sidecar.engine.runtime import JobCancelled
from support.headroom import without_headroom
from support.parity import TOLERANCES, build, cast, error, randomise, save

ALL_ON = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}


def make(folder, **changes):
    values = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
        "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 32,
        "pooled_projection_dim": 20, "pos_embed_max_size": 13,
    }  # fmt: skip
    model = randomise(SD3Transformer2DModel(**values | changes))
    return model, build(Mmdit, save(model, folder, "transformer", shard="60KB"))


def inputs(height=12, width=20):
    generator = torch.Generator().manual_seed(2)
    shapes = (2, 4, height, width), (2, 7, 24), (2, 20)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def theirs_at(model, latent, tokens, pooled, timestep):
    with torch.no_grad():
        times = torch.full((len(latent),), timestep)
        output = model(latent, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=times)
    return output.sample.permute(0, 2, 3, 1)


def ours_at(model, latent, tokens, pooled, timesteps, step, dtype=mx.float32, **options):
    given = latent.permute(0, 2, 3, 1), tokens, pooled
    latent, tokens, pooled = (mx.array(value.numpy()).astype(dtype) for value in given)
    by = model.modulation(mx.array(timesteps), pooled).at(step)
    return model(latent, model.words(tokens), by, **options)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        ALL_ON,
        *({"qk_norm": name} for name in ("rms_norm", "layer_norm", "fp32_layer_norm")),
        {"dual_attention_layers": (0, 2)},
        {"patch_size": 1, "num_layers": 1},
    ],
)
def test_one_call_gives_what_diffusers_gives(tmp_path, switches):
    theirs, ours = make(tmp_path, **switches)
    given = inputs(*((7, 9) if "patch_size" in switches else (12, 20)))
    times = [1000.0, 731.25, 3.5]
    for step, time in enumerate(times):
        assert error(ours_at(ours, *given, times, step), theirs_at(theirs, *given, time)) < TOLERANCES["transformer"]


@pytest.mark.parametrize(("height", "width", "largest"), [(12, 20, 10), (2, 6, 3), (10, 2, 5), (26, 26, 99)])
def test_positions_that_no_size_uses_are_forgotten_and_the_rest_stay_in_place(tmp_path, height, width, largest):
    theirs, ours = make(tmp_path)
    given = inputs(height, width)
    ours.keep_positions(largest)
    assert ours.positions.shape[1] <= 13**2
    assert error(ours_at(ours, *given, [500.0], 0), theirs_at(theirs, *given, 500.0)) < TOLERANCES["transformer"]


def test_a_call_stops_between_blocks_and_the_next_one_is_not_touched(tmp_path):
    _, ours = make(tmp_path, **ALL_ON)
    given, passed = inputs(), []

    def checkpoint():
        passed.append(1)
        if len(passed) == 2:
            raise JobCancelled

    whole = np.array(ours_at(ours, *given, [500.0], 0))
    with pytest.raises(JobCancelled):
        ours_at(ours, *given, [500.0], 0, pace=Pace(checkpoint))
    assert len(passed) == 2
    assert (np.array(ours_at(ours, *given, [500.0], 0, pace=Pace(lambda: None))) == whole).all()


WIDE = ("attention", "second attention", "text", "feed-forward", "sum")


def boisterous(model, wide):
    """Let the output of a layer, of either stream, or only the sum of branches leave float16's range."""
    with torch.no_grad():
        for block in model.transformer_blocks:
            if wide == "attention":
                block.attn.to_out[0].weight *= 60_000
            if wide == "second attention" and block.attn2 is not None:
                block.attn2.to_out[0].weight *= 60_000
            if wide == "text" and block.ff_context is not None:
                block.attn.to_add_out.weight *= 60_000
                block.ff_context.net[2].weight *= 60_000
            if wide == "feed-forward":
                block.ff.net[2].weight *= 60_000
            if wide == "sum":
                gates = block.norm1.linear.bias.view(-1, 32)
                gates[[2, 5, 8] if len(gates) == 9 else [2, 5]] += 40_000
    return model


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(tmp_path, wide, batch, monkeypatch):
    theirs = boisterous(make(tmp_path / "calm", **ALL_ON)[0], wide)
    given = [value[:batch] for value in inputs()]
    ours = cast(build(Mmdit, save(theirs, tmp_path, "transformer")), mx.float16)
    got = ours_at(ours, *given, [500.0], 0, mx.float16)
    assert got.dtype == mx.float16
    assert error(got.astype(mx.float32), theirs_at(theirs, *given, 500.0)) < 0.02
    without_headroom(monkeypatch)
    assert not mx.isfinite(ours_at(ours, *given, [500.0], 0, mx.float16)).all().item()
    assert mx.isfinite(ours_at(cast(ours, mx.bfloat16), *given, [500.0], 0, mx.bfloat16)).all().item()
