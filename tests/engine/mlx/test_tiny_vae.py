"""The tiny preview decoder against diffusers' AutoencoderTiny."""

import mlx.core as mx
import pytest
import torch
from diffusers import AutoencoderTiny

from locara_sidecar.engine.mlx_engine.autoencoders.tiny_vae import TinyVae
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS
from support.parity import TOLERANCES, build, error, randomise, save

LIKE_PUBLISHED = {
    "latent_channels": 16,
    "encoder_block_out_channels": (12,) * 4,
    "decoder_block_out_channels": (12,) * 4,
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
}
VARIANTS = {
    "as published": {},
    "scaled and shifted latents": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "two sizes, enlarged three times": {
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (2, 0), "upsampling_scaling_factor": 3,
    },
}  # fmt: skip


def both(folder, **changes):
    theirs = randomise(AutoencoderTiny(**LIKE_PUBLISHED | changes))
    return theirs, save(theirs, folder, "tiny_vae")


def latent(seed=3):
    """Return a latent with values beyond the decoder's linear range, and not square."""
    return 2 * torch.randn(1, 16, 6, 9, generator=torch.Generator().manual_seed(seed))


def decoded(model, value):
    """Decode like the torch engine: the configuration's scale and shift come first."""
    raw = value / model.config.scaling_factor + model.config.shift_factor
    with torch.no_grad():
        return model.decode(raw).sample.permute(0, 2, 3, 1)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_latent_decodes_to_what_diffusers_makes_of_it(tmp_path, changes):
    theirs, component = both(tmp_path, **changes)
    got = build(TinyVae, component).decode(mx.array(latent().permute(0, 2, 3, 1).numpy()))
    assert error(got, decoded(theirs, latent())) < TOLERANCES["vae decode"]


def test_the_fixtures_decoder_is_the_one_that_diffusers_loads():
    from locara_sidecar.engine.folder import model_folder

    theirs = AutoencoderTiny.from_pretrained(MODELS / "tiny-flux" / "tiny_vae", local_files_only=True)
    component = model_folder.read_component(
        MODELS / "tiny-flux", "tiny_vae", "AutoencoderTiny", "diffusion_pytorch_model"
    )
    got = build(TinyVae, component).decode(mx.array(latent().permute(0, 2, 3, 1).numpy()))
    assert error(got, decoded(theirs, latent())) < TOLERANCES["vae decode"]


@pytest.mark.parametrize("changes", [{"act_fn": "swish"}, {"upsample_fn": "bilinear"}])
def test_a_decoder_of_another_kind_is_refused_and_not_drawn_wrongly(tmp_path, changes):
    _, component = both(tmp_path, **changes)
    with pytest.raises(EngineError) as caught:
        build(TinyVae, component)
    assert caught.value.kind == "IntegrityError"


def test_decoding_stops_when_cancelled(tmp_path):
    _, component = both(tmp_path)
    seen = []

    def pace(*state):
        seen.append(state)
        if len(seen) == 5:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        build(TinyVae, component).decode(mx.array(latent().permute(0, 2, 3, 1).numpy()), pace)
    assert len(seen) == 5
