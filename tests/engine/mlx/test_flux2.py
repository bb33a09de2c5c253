"""FLUX.2's transformer and autoencoder against diffusers', and what float16 does to the first."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

from locara_sidecar.engine.mlx_engine.autoencoders.flux2_vae import Flux2Vae
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer
from locara_sidecar.engine.mlx_engine.pace import Pace
from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from support.flux2 import CONFIG, WIDE, boisterous, made
from support.parity import TOLERANCES, build, cast, error, randomise, save


def ours_of(folder, model):
    return build(Flux2Transformer, save(model, folder, "transformer", shard="60KB"))


class Case:
    """The same inputs for both: a packed latent of channels first, references, and words of text."""

    def __init__(self, size=(4, 6), words=7, references=()):
        generator = torch.Generator().manual_seed(3)
        self.latents = [torch.randn((1, 16, *one), generator=generator) for one in (size, *references)]
        self.tokens = torch.randn((1, words, 24), generator=generator)

    def theirs(self, model, timestep):
        pipe, (first, *others) = Flux2KleinPipeline, self.latents
        ids = [pipe._prepare_latent_ids(first), *([pipe._prepare_image_ids(others)] if others else [])]
        with torch.no_grad():
            (out,) = model(
                hidden_states=torch.cat([pipe._pack_latents(latent) for latent in self.latents], dim=1),
                encoder_hidden_states=self.tokens,
                timestep=torch.tensor([timestep / 1000]),
                img_ids=torch.cat(ids, dim=1),
                txt_ids=pipe._prepare_text_ids(self.tokens),
                return_dict=False,
            )
        return out[:, : first.shape[2] * first.shape[3]].reshape(1, *first.shape[2:], -1)

    def ours(self, model, timesteps, step=0, dtype=mx.float32, **options):
        latent, *others = (mx.array(each.permute(0, 2, 3, 1).numpy()).astype(dtype) for each in self.latents)
        rotation = model.rotation(self.tokens.shape[1], *(each.shape[1:3] for each in (latent, *others)))
        words, seen = model.words(mx.array(self.tokens.numpy())), model.pictures(others)
        return model(latent, words, model.modulation(mx.array(timesteps)).at(step), rotation, seen, **options)


@pytest.mark.parametrize(
    "switches",
    [{}, {"mlp_ratio": 2.5, "rope_theta": 300}, {"eps": 1e-2}, {"num_layers": 1, "num_single_layers": 3}],
)
@pytest.mark.parametrize("case", [((4, 6), 7), ((1, 1), 40), ((3, 5), 4, [(4, 2), (1, 7), (2, 2)])])
def test_one_call_gives_what_diffusers_gives(tmp_path, switches, case):
    theirs, given = made(**switches), Case(*case)
    ours, times = ours_of(tmp_path, theirs), [1000.0, 731.25, 3.5]
    for step, time in enumerate(times):
        assert error(given.ours(ours, times, step), given.theirs(theirs, time)) < TOLERANCES["transformer"]


def test_positions_far_out_turn_as_diffusers_has_it(tmp_path):
    theirs, given = made(), Case((2, 400), 200, [(1, 300)] * 3)
    assert (
        error(given.ours(ours_of(tmp_path, theirs), [500.0]), given.theirs(theirs, 500.0)) < TOLERANCES["transformer"]
    )


def test_a_call_stops_between_blocks_and_the_next_one_is_not_touched(tmp_path):
    ours, given = ours_of(tmp_path, made()), Case()
    whole = np.array(given.ours(ours, [500.0]))
    for stop in range(1, 5):
        passed = []

        def checkpoint(stop=stop, passed=passed):
            passed.append(1)
            if len(passed) == stop:
                raise JobCancelled

        with pytest.raises(JobCancelled):
            given.ours(ours, [500.0], pace=Pace(checkpoint))
    assert (np.array(given.ours(ours, [500.0], pace=Pace(lambda: None))) == whole).all()


def test_axes_that_do_not_share_out_a_head_are_refused(tmp_path):
    component = save(Flux2Transformer2DModel(**CONFIG), tmp_path, "transformer")
    component.config["axes_dims_rope"] = [4, 4, 4, 6]
    with pytest.raises(EngineError) as caught:
        build(Flux2Transformer, component)
    assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(tmp_path, wide):
    theirs, given = boisterous(wide), Case()
    ours = ours_of(tmp_path, theirs)
    cast(ours, mx.float16)
    got = given.ours(ours, [500.0], dtype=mx.float16)
    assert got.dtype == mx.float16
    assert error(got.astype(mx.float32), given.theirs(theirs, 500.0)) < 0.02


def test_a_quantized_output_layer_in_halves_gives_what_it_gives_whole(tmp_path):
    model = made(num_attention_heads=4)  # 64 wide, one group
    component, given = save(model, tmp_path, "transformer"), Case()
    ours = build(Flux2Transformer, component, quantizer=AffineQuantizer(8))
    whole = np.array(given.ours(ours, [500.0]))
    assert error(whole, given.theirs(model, 500.0)) < 0.1
    ours.split()
    assert "first" in ours.singles[0].proj_out
    assert error(given.ours(ours, [500.0]), whole) < 1e-5


# --- the autoencoder --------------------------------------------------------------------------


def autoencoder(folder):
    levels = 3
    model = randomise(
        AutoencoderKLFlux2(
            block_out_channels=(8, 16, 16), layers_per_block=2, latent_channels=4, norm_num_groups=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    model.bn.running_mean.copy_(torch.randn(16, generator=generator))
    model.bn.running_var.copy_(torch.rand(16, generator=generator) + 0.1)
    return model, build(Flux2Vae, save(model, folder, "vae", shard="20KB"))


def last(value):
    """From diffusers' (B, C, h, w) to ours."""
    return value.permute(0, 2, 3, 1)


@pytest.mark.parametrize("tiled", [False, True])
def test_the_autoencoder_gives_what_diffusers_gives_in_both_directions(tmp_path, tiled):
    theirs, ours = autoencoder(tmp_path)
    generator = torch.Generator().manual_seed(3)
    pixels, latent = torch.randn((1, 3, 40, 24), generator=generator), torch.randn((1, 4, 10, 6), generator=generator)
    with torch.no_grad():
        posterior = theirs.encode(pixels).latent_dist
        decoded = theirs.decode(latent).sample
    got = ours.encode(mx.array(last(pixels).numpy()), tiled=tiled)
    assert error(got.mean, last(posterior.mean)) < TOLERANCES["vae encode"]
    made = ours.decode(ours.to_raw(mx.array(last(latent).numpy())), tiled=tiled)
    assert error(made, last(decoded)) < TOLERANCES["vae decode"]


def test_latents_are_packed_and_scaled_by_the_statistics_as_in_diffusers_pipeline(tmp_path):
    theirs, ours = autoencoder(tmp_path)
    raw = torch.randn((1, 4, 10, 6), generator=torch.Generator().manual_seed(3))
    mean = theirs.bn.running_mean.view(1, -1, 1, 1)
    deviation = torch.sqrt(theirs.bn.running_var.view(1, -1, 1, 1) + theirs.config.batch_norm_eps)
    packed = (Flux2KleinPipeline._patchify_latents(raw) - mean) / deviation
    assert error(ours.packed(mx.array(last(raw).numpy())), last(packed)) < 1e-6
    assert error(ours.unpacked(mx.array(last(packed).numpy())), last(raw)) < 1e-6
