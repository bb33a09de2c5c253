"""Configuration values that people reported or that reviewers tried: a picture, or a refusal by name."""

import json
import shutil

import pytest

from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS

ABSENT = object()
REFUSED = [
    ("tiny-sd3", "tokenizer/tokenizer_config.json", "model_max_length", ABSENT),
    ("tiny-sd3", "tokenizer/tokenizer_config.json", "model_max_length", None),
    ("tiny-sd3", "tokenizer/tokenizer_config.json", "model_max_length", 1000000000000000019884624838656),
    ("tiny-sd3", "tokenizer_2/tokenizer_config.json", "model_max_length", 512),
    ("tiny-flux", "tokenizer/tokenizer_config.json", "model_max_length", 512),
    ("tiny-sdxl", "tokenizer_2/tokenizer_config.json", "model_max_length", 1e30),
    ("tiny-sdxl", "tokenizer/tokenizer_config.json", "model_max_length", 20),
    ("tiny-sdxl", "tokenizer_2/tokenizer_config.json", "model_max_length", 20),
    ("tiny-sd3", "scheduler/scheduler_config.json", "stochastic_sampling", True),
    ("tiny-flux", "scheduler/scheduler_config.json", "use_beta_sigmas", True),
    ("tiny-sdxl", "scheduler/scheduler_config.json", "use_beta_sigmas", True),
    ("tiny-sdxl", "scheduler/scheduler_config.json", "num_train_timesteps", 150_000_000),
    ("tiny-sdxl", "unet/config.json", "class_embed_type", "timestep"),
    ("tiny-sdxl", "unet/config.json", "addition_embed_type", None),
    ("tiny-sd3", "text_encoder/config.json", "vocab_size", 500),
    ("tiny-sd3", "transformer/config.json", "num_layers", None),
    ("tiny-sd3", "vae/config.json", "scaling_factor", float("nan")),
    ("tiny-sd3", "model_index.json", "vae", ["diffusers", ["AutoencoderKL"]]),
    ("tiny-sd3", "model_index.json", "use_new_thing", True),
]
TAKEN = [
    ("tiny-sd3", "tokenizer_3/tokenizer_config.json", "model_max_length", ABSENT),
    ("tiny-sd3", "tokenizer_3/tokenizer_config.json", "model_max_length", None),
    ("tiny-sd3", "tokenizer_3/tokenizer_config.json", "model_max_length", 1000000000000000019884624838656),
    ("tiny-flux", "tokenizer_2/tokenizer_config.json", "model_max_length", 1e30),
    ("tiny-sd3", "vae/config.json", "force_upcast", None),
    ("tiny-flux", "transformer/config.json", "guidance_embeds", None),
    ("tiny-sdxl", "unet/config.json", "upcast_attention", None),
    ("tiny-sdxl", "model_index.json", "feature_extractor", [None, None]),
    ("tiny-sdxl", "model_index.json", "force_zeros_for_empty_prompt", True),
]


def with_value(tmp_path, model, file, member, value):
    folder = shutil.copytree(MODELS / model, tmp_path / "model")
    config = json.loads((folder / file).read_text())
    config.pop(member, None)
    if value is not ABSENT:
        config[member] = value
    (folder / file).write_text(json.dumps(config))
    return str(folder)


def name_of(value):
    return "absent" if value is ABSENT else str(value)[:30]


@pytest.mark.parametrize(("family", "file", "member", "value"), REFUSED, ids=name_of)
def test_refused_by_file_and_member_before_anything_is_sampled(
    runtimes, run, job_for, tmp_path, family, file, member, value
):
    events = []
    path = with_value(tmp_path, family, file, member, value)
    with pytest.raises(EngineError) as caught:
        run(runtimes(family), job_for(family, path=path, digest=path, steps=1), on_event=events.append)
    assert caught.value.kind == "IntegrityError"
    assert member in caught.value.message or "id 5" in caught.value.message
    assert caught.value.data["files"][0].split("/")[0].replace("tokenizer", "text_encoder") in (
        file.split("/")[0].replace("tokenizer", "text_encoder")
    )
    assert {event.phase for event in events} <= {"loading"}


@pytest.mark.quick_cases(
    "mlx-tiny-sd3-vae", "torch-tiny-flux-transformer", "length-absent", "mlx-tiny-sdxl-model_index.json-force"
)
@pytest.mark.parametrize(("family", "file", "member", "value"), TAKEN, ids=name_of)
def test_drawn_as_if_nothing_were_said(runtimes, run, job_for, plain, tmp_path, family, file, member, value):
    path = with_value(tmp_path, family, file, member, value)
    drawn = run(runtimes(family), job_for(family, path=path, digest=path, steps=1)).images[0]
    assert drawn.tobytes() == plain(family)


@pytest.fixture(scope="session")
def plain(runtimes, run, job_for):
    """Return what the unchanged model draws, drawn only once."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = run(runtimes(family), job_for(family, steps=1)).images[0].tobytes()
        return made[family]

    return get
