"""FLUX's transformer against diffusers' FluxTransformer2DModel, and what float16 does to it."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from locara_sidecar.engine.mlx_engine.denoisers import flux
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
from locara_sidecar.engine.mlx_engine.pace import Pace
from locara_sidecar.engine.runtime import JobCancelled
from support.headroom import without_headroom
from support.parity import TOLERANCES, build, cast, error, randomise, save

WORDS = 7


def make(folder, **changes):
    values = {
        "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": (4, 6, 6), "guidance_embeds": True,
    }  # fmt: skip
    model = randomise(FluxTransformer2DModel(**values | changes))
    return model, build(Flux, save(model, folder, "transformer", shard="60KB"))


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def last(value):
    """Convert diffusers' (B, C, h, w) to our layout."""
    return value.permute(0, 2, 3, 1)


def packed(latent):
    return FluxPipeline._pack_latents(latent, *latent.shape)


def places(latent, first=0):
    ids = FluxPipeline._prepare_latent_image_ids(1, latent.shape[2] // 2, latent.shape[3] // 2, "cpu", torch.float32)
    ids[:, 0] = first
    return ids


class Case:
    """The same inputs for both: two latents, tokens, pooled texts, and optionally a reference picture."""

    def __init__(self, height=8, width=12, reference=None):
        self.latent, self.tokens, self.pooled = noise(1, 2, 4, height, width), noise(2, 2, WORDS, 24), noise(3, 2, 20)
        self.reference = None if reference is None else noise(4, 2, 4, *reference)

    def theirs(self, model, timestep, guidance):
        hidden, ids = packed(self.latent), places(self.latent)
        count = hidden.shape[1]
        if self.reference is not None:
            hidden = torch.cat([hidden, packed(self.reference)], dim=1)
            ids = torch.cat([ids, places(self.reference, first=1)])
        with torch.no_grad():
            output = model(
                hidden_states=hidden,
                timestep=torch.full((len(self.latent),), timestep / 1000),
                guidance=torch.full((len(self.latent),), guidance) if model.config.guidance_embeds else None,
                pooled_projections=self.pooled,
                encoder_hidden_states=self.tokens,
                txt_ids=torch.zeros(WORDS, 3),
                img_ids=ids,
            ).sample[:, :count]
        height, width = self.latent.shape[2:]
        return last(FluxPipeline._unpack_latents(output, height * 8, width * 8, 8))

    def ours(self, model, timesteps, step, guidance, dtype=mx.float32, **options):
        given = last(self.latent), self.tokens, self.pooled
        latent, tokens, pooled = (mx.array(v.numpy()).astype(dtype) for v in given)
        reference = None if self.reference is None else mx.array(last(self.reference).numpy()).astype(dtype)
        pictures = [v.shape[2:] for v in (self.latent, self.reference) if v is not None]
        by = model.modulation(mx.array(timesteps), pooled, guidance).at(step)
        return model(latent, model.words(tokens), by, model.rotation(WORDS, *pictures), reference, **options)


SWITCHES = [
    {},
    {"guidance_embeds": False},
    {"num_layers": 1, "num_single_layers": 0},
    {"num_layers": 0, "num_single_layers": 2},
    {"attention_head_dim": 32, "axes_dims_rope": (8, 12, 12), "in_channels": 64},
]


@pytest.mark.parametrize("reference", [None, (8, 12), (6, 10)])
@pytest.mark.parametrize("switches", SWITCHES)
def test_one_call_gives_what_diffusers_gives(tmp_path, switches, reference):
    theirs, ours = make(tmp_path, **switches)
    case = Case(8, 12, reference)
    if "in_channels" in switches:
        case.latent = noise(1, 2, 16, 8, 12)
        case.reference = None if reference is None else noise(4, 2, 16, *reference)
    times = [1000.0, 731.25, 3.5]
    for step, time in enumerate(times):
        got = case.ours(ours, times, step, 3.5)
        assert error(got, case.theirs(theirs, time, 3.5)) < TOLERANCES["transformer"]


def test_positions_far_out_turn_as_diffusers_has_it(tmp_path):
    theirs, ours = make(tmp_path)
    case = Case(2, 400)
    assert error(case.ours(ours, [500.0], 0, 1.0), case.theirs(theirs, 500.0, 1.0)) < TOLERANCES["transformer"]


def test_guidance_steers_only_a_model_that_was_distilled_with_it(tmp_path):
    case = Case()
    _, with_it = make(tmp_path / "with")
    _, without = make(tmp_path / "without", guidance_embeds=False)
    low, high = (np.array(case.ours(with_it, [500.0], 0, guidance)) for guidance in (1.0, 5.0))
    assert np.abs(low - high).max() > 1e-3
    low, high = (np.array(case.ours(without, [500.0], 0, guidance)) for guidance in (1.0, 5.0))
    assert (low == high).all()


def test_packing_is_diffusers_and_unpacking_its_inverse():
    latent = noise(1, 2, 16, 6, 10)
    mine = mx.array(last(latent).numpy())
    assert (np.array(flux.pack(mine)) == packed(latent).numpy()).all()
    assert (np.array(flux.unpack(flux.pack(mine), (6, 10))) == np.array(mine)).all()


def test_a_call_stops_between_blocks_of_either_kind_and_the_next_one_is_not_touched(tmp_path):
    _, ours = make(tmp_path)
    case = Case(reference=(4, 4))
    whole = np.array(case.ours(ours, [500.0], 0, 3.5))
    for stop in range(1, 6):
        passed = []

        def checkpoint(stop=stop, passed=passed):
            passed.append(1)
            if len(passed) == stop:
                raise JobCancelled

        with pytest.raises(JobCancelled):
            case.ours(ours, [500.0], 0, 3.5, pace=Pace(checkpoint))
        assert len(passed) == stop
    assert (np.array(case.ours(ours, [500.0], 0, 3.5, pace=Pace(lambda: None))) == whole).all()


def test_axes_that_do_not_share_out_a_head_are_refused(tmp_path):
    from locara_sidecar.ipc.errors import EngineError

    component = save(FluxTransformer2DModel(num_layers=1, num_single_layers=0, **SMALL), tmp_path, "transformer")
    component.config["axes_dims_rope"] = [4, 6, 4]
    with pytest.raises(EngineError) as caught:
        build(Flux, component)
    assert caught.value.kind == "IntegrityError"


WIDE = ("attention", "text", "feed-forward", "single", "sum")


def boisterous(model, wide):
    """Let a layer's output, of either stream or of both, or only the sum of branches leave float16's range."""
    with torch.no_grad():
        for block in model.transformer_blocks:
            if wide == "attention":
                block.attn.to_out[0].weight *= 60_000
            if wide == "text":
                block.attn.to_add_out.weight *= 60_000
                block.ff_context.net[2].weight *= 60_000
            if wide == "feed-forward":
                block.ff.net[2].weight *= 60_000
            if wide == "sum":
                for layer in (block.norm1.linear, block.norm1_context.linear):
                    layer.bias.view(6, -1)[[2, 5]] += 40_000
        for block in model.single_transformer_blocks:
            if wide == "single":
                block.proj_out.weight *= 60_000
            if wide == "sum":
                block.norm.linear.bias.view(3, -1)[2] += 40_000
    return model


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(tmp_path, wide, batch, monkeypatch):
    theirs, case = boisterous(make(tmp_path / "calm")[0], wide), Case(reference=(4, 6))
    case.latent, case.tokens, case.pooled, case.reference = (
        value[:batch] for value in (case.latent, case.tokens, case.pooled, case.reference)
    )
    ours = cast(build(Flux, save(theirs, tmp_path, "transformer")), mx.float16)
    got = case.ours(ours, [500.0], 0, 3.5, mx.float16)
    assert got.dtype == mx.float16
    assert error(got.astype(mx.float32), case.theirs(theirs, 500.0, 3.5)[:batch]) < 0.02
    without_headroom(monkeypatch)
    assert not mx.isfinite(case.ours(ours, [500.0], 0, 3.5, mx.float16)).all().item()
    assert mx.isfinite(case.ours(cast(ours, mx.bfloat16), [500.0], 0, 3.5, mx.bfloat16)).all().item()


SMALL = {
    "in_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24,
    "pooled_projection_dim": 20, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
