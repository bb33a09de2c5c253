"""A model's text files and headers come from strangers: overlong ones are refused by their length, before reading."""

import json
import shutil

import pytest

from locara_sidecar.engine.folder import config_check, model_folder, tensor_check, tokenizer_check
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.weights import safetensors_header, text_files
from support.config_values import ABSURD, VALUES
from support.fixture_models import MODELS

FAMILY = "tiny-sdxl"
TEXTS = [
    ("model_index.json", 5),
    ("vae/config.json", 5),
    ("scheduler/scheduler_config.json", 5),
    ("tokenizer/tokenizer_config.json", 5),
    ("tokenizer/special_tokens_map.json", 5),  # read only by transformers
    ("tokenizer/tokenizer.json", 17),
]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODELS / FAMILY, tmp_path / "model")


@pytest.fixture
def told(runtimes, run, job_for, folder):
    def draw():
        with pytest.raises(EngineError) as caught:
            run(runtimes(FAMILY), job_for(FAMILY, path=str(folder), digest="long", steps=1))
        return caught.value

    return draw


@pytest.mark.parametrize(("name", "megabytes"), TEXTS)
def test_a_text_file_that_is_too_long_is_refused_unread(told, folder, monkeypatch, name, megabytes):
    with (folder / name).open("a") as file:
        file.truncate(megabytes << 20)  # a sparse file: nothing of it is on disk
    kept, sizes = text_files.read, []
    monkeypatch.setattr(text_files, "read", lambda path: _noted(kept(path), sizes))
    fault = told()
    assert fault.kind == "IntegrityError"
    assert fault.message == (
        f"The model's file {name} cannot be used: it is longer than the"
        f" {megabytes - 1} MiB that a file of this kind may have."
    )
    assert all(size < 1 << 20 for size in sizes)


def _noted(content, sizes):
    sizes.append(len(content))
    return content


def test_the_headers_of_a_part_are_bounded_together_and_refused_unread(told, folder, monkeypatch):
    """Each header of the three shards has an allowed length, but together they are too long."""
    part = folder / "unet"
    names = [f"diffusion_pytorch_model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    whole = (part / "diffusion_pytorch_model.safetensors").read_bytes()
    (part / "diffusion_pytorch_model.safetensors").unlink()
    for name in names:
        length = int.from_bytes(whole[:8], "little")
        padded = whole[8 : 8 + length] + b" " * (3 << 20)
        (part / name).write_bytes(len(padded).to_bytes(8, "little") + padded + whole[8 + length :])
    keys = {"conv_in.bias": names[0], "conv_out.bias": names[1], "conv_in.weight": names[2]}
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": keys}))
    monkeypatch.setattr(model_folder, "_header_keys", _not_of("unet", model_folder._header_keys))
    fault = told()
    assert fault.kind == "IntegrityError"
    assert f"unet/{names[2]}" in fault.message
    assert "longer than 8 MiB" in fault.message


def _not_of(part, read):
    def header_keys(folder, name):
        assert not name.startswith(part), "a header was read"
        return read(folder, name)

    return header_keys


def test_every_published_file_is_far_below_the_bounds():
    for path in sorted((MODELS.parent).rglob("*.json")):
        assert path.stat().st_size * 4 < text_files.require(path), path
    for path in sorted(MODELS.rglob("*.safetensors")):
        length = int.from_bytes(path.read_bytes()[:8], "little")
        assert length * 4 < safetensors_header.MAX_HEADER, path
        assert tensor_check.headers(path)[0]


@pytest.mark.quick_cases("latent_channels-not a number")
@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("member", ["num_decoder_blocks", "decoder_block_out_channels", "latent_channels"])
def test_a_preview_decoder_with_absurd_numbers_costs_only_its_previews(
    runtimes, run, job_for, tmp_path, caplog, monkeypatch, member, value
):
    """Nothing is built from them: a network of 150 million blocks would use up the machine."""
    folder = shutil.copytree(MODELS / "tiny-flux", tmp_path / "model")
    file = folder / "tiny_vae" / "config.json"
    config = json.loads(file.read_text())
    number = VALUES[value]
    config[member] = [*config[member][:-1], number] if isinstance(config[member], list) else number
    file.write_text(json.dumps(config))
    _check_draws(runtimes("tiny-flux"), run, job_for, folder, caplog, monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_decoder_blocks": [1, 1, 1, 60]},  # more than it has weights for
        {"num_decoder_blocks": [1, 1, 1]},
        {"latent_channels": 8},
        {"upsampling_scaling_factor": 4},  # 8 times as many pixels per side as the picture has
        {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3},  # for each of 16 channels
        {"latents_mean": [0.0] * 16},
        {"latent_magnitude": 3, "unheard_of": 1},
    ],
)
def test_a_preview_decoder_that_does_not_fit_the_model_is_left(
    runtimes, run, job_for, tmp_path, caplog, monkeypatch, changes
):
    folder = shutil.copytree(MODELS / "tiny-flux", tmp_path / "model")
    file = folder / "tiny_vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    _check_draws(runtimes("tiny-flux"), run, job_for, folder, caplog, monkeypatch)


def _check_draws(runtime, run, job_for, folder, caplog, monkeypatch):
    monkeypatch.setattr(_previews_of(runtime), "_build_tiny", _refuse)
    result = run(runtime, job_for("tiny-flux", path=str(folder), digest=str(folder), steps=1, mode="tiny"))
    assert result.images
    assert runtime.preview(result.steps[-1].x0, "tiny", 48) is None
    assert "the tiny preview decoder cannot be used" in caplog.text


def _previews_of(runtime):
    if type(runtime).__module__.startswith("locara_sidecar.engine.torch"):
        from locara_sidecar.engine.torch_engine.autoencoders import previews
    else:
        from locara_sidecar.engine.mlx_engine.autoencoders import previews
    return previews.Previews


def _refuse(*_):
    raise AssertionError("a network was built")


def test_a_link_to_nothing_beside_a_tokenizer_is_passed_over(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "README.md").symlink_to(tmp_path / "gone")
    tokenizer_check._require_readable(tmp_path, "tokenizer")


def test_an_autoencoder_makes_no_more_of_a_latent_than_64_pixels_a_side():
    """A linear preview is fitted on pictures of that many pixels for each of 16 latent cells per side."""
    levels = {"block_out_channels": [8] * 7, "down_block_types": ["DownEncoderBlock2D"] * 7}
    assert config_check.reduced("vae/config.json", "AutoencoderKL", levels, "mlx") == levels
    with pytest.raises(EngineError, match="its block_out_channels is"):
        config_check.reduced("vae/config.json", "AutoencoderKL", {"block_out_channels": [8] * 8}, "mlx")
