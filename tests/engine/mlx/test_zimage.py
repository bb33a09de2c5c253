"""Z-Image's transformer against diffusers' ZImageTransformer2DModel, and the effect of float16 on it."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import ZImageTransformer2DModel

from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageTransformer
from locara_sidecar.engine.mlx_engine.pace import Pace
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from support.parity import TOLERANCES, build, cast, error, save
from support.zimage import CONFIG, WIDE, boisterous, made


def ours_of(folder, model):
    return build(ZImageTransformer, save(model, folder, "transformer", shard="60KB"))


class Case:
    """The same inputs for both: a latent with the channels first, and the text's hidden states."""

    def __init__(self, height=8, width=12, words=7):
        generator = torch.Generator().manual_seed(3)
        self.latent = torch.randn((1, 4, height, width), generator=generator)
        self.tokens = torch.randn((words, 24), generator=generator)

    def theirs(self, model, timestep):
        with torch.no_grad():
            (out,) = model(
                [self.latent[0].unsqueeze(1)],
                torch.tensor([(1000 - timestep) / 1000]),
                [self.tokens],
                return_dict=False,
            )[0]
        return -out[:, 0].permute(1, 2, 0)[None]

    def ours(self, model, timesteps, step=0, dtype=mx.float32, **options):
        latent = mx.array(self.latent.permute(0, 2, 3, 1).numpy()).astype(dtype)
        places = model.places(self.tokens.shape[0], *latent.shape[1:3])
        text = model.refined(mx.array(self.tokens[None].numpy()), places)
        return model(latent, text, model.modulation(mx.array(timesteps)).at(step), places, **options)


@pytest.mark.parametrize("switches", [{}, {"qk_norm": False}, {"n_refiner_layers": 0}, {"norm_eps": 1e-2}])
@pytest.mark.parametrize("case", [(8, 12, 7), (16, 16, 32), (2, 2, 40)])
def test_one_call_gives_what_diffusers_gives(tmp_path, switches, case):
    theirs, given = made(**switches), Case(*case)
    ours, times = ours_of(tmp_path, theirs), [1000.0, 731.25, 3.5]
    for step, time in enumerate(times):
        assert error(given.ours(ours, times, step), given.theirs(theirs, time)) < TOLERANCES["transformer"]


def test_positions_far_out_turn_as_diffusers_has_it(tmp_path):
    theirs, given = made(), Case(2, 800, 200)
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
    component = save(ZImageTransformer2DModel(**CONFIG), tmp_path, "transformer")
    component.config["axes_dims"] = [8, 12, 10]
    with pytest.raises(EngineError) as caught:
        build(ZImageTransformer, component)
    assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(tmp_path, wide):
    theirs, given = boisterous(wide), Case()
    ours = ours_of(tmp_path, theirs)
    cast(ours, mx.float16)
    got = given.ours(ours, [500.0], dtype=mx.float16)
    assert got.dtype == mx.float16
    assert error(got.astype(mx.float32), given.theirs(theirs, 500.0)) < 0.02
