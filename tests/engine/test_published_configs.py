"""The configurations of published repositories pass with all their harmless members; what may change pictures does
not."""

import copy
import json
import os
from pathlib import Path

import pytest

from locara_sidecar.engine.folder import config_check, model_folder, part_sizes, tokenizer_check
from locara_sidecar.engine.folder.config_members import CLASSES
from locara_sidecar.ipc.errors import EngineError

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))["repositories"]
PIPELINES = {
    "black-forest-labs/FLUX.1-Kontext-dev": "FluxKontextPipeline",
    "black-forest-labs/FLUX.1-dev": "FluxPipeline",
    "black-forest-labs/FLUX.1-schnell": "FluxPipeline",
    "black-forest-labs/FLUX.2-klein-4B": "Flux2KleinPipeline",
    "Tongyi-MAI/Z-Image-Turbo": "ZImagePipeline",
    "stabilityai/stable-diffusion-3-medium-diffusers": "StableDiffusion3Pipeline",
    "stabilityai/stable-diffusion-3.5-large": "StableDiffusion3Pipeline",
    "stabilityai/stable-diffusion-3.5-medium": "StableDiffusion3Pipeline",
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    "playgroundai/playground-v2.5-1024px-aesthetic": "StableDiffusionXLPipeline",
}


def class_of(part, config):
    if part.startswith("tokenizer"):
        return config["tokenizer_class"]
    if config.get("model_type") == "qwen3":  # its file names the model that it was extracted from
        return "Qwen3Model"
    return config.get("_class_name") or config["architectures"][0]


def reduced(repository, engine="torch"):
    return {
        part: config_check.reduced(f"{part}/config.json", class_of(part, config), config, engine)
        for part, config in PUBLISHED[repository].items()
        if not part.startswith("tokenizer")
    }


@pytest.mark.parametrize("engine", ["torch", "mlx"])
@pytest.mark.parametrize("repository", PUBLISHED)
def test_no_published_configuration_is_refused(repository, engine):
    assert reduced(repository, engine)


@pytest.mark.parametrize("repository", PIPELINES)
def test_the_parts_of_published_models_fit_each_other(repository):
    part_sizes.require_fit(PIPELINES[repository], reduced(repository))


@pytest.mark.parametrize("repository", PIPELINES)
def test_published_tokenizers_pass(repository, tmp_path):
    parts = {part: config for part, config in PUBLISHED[repository].items() if part.startswith("tokenizer")}
    for part, config in parts.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "tokenizer_config.json").write_text(json.dumps(config))
    found = {part: class_of(part, config) for part, config in parts.items()}
    for part, class_name in found.items():  # only configurations are kept here
        kind = "BPE" if class_name.startswith("CLIP") else "Unigram"
        (tmp_path / part / "tokenizer.json").write_text(json.dumps({"model": {"type": kind}}))
    tokenizer_check.check(tmp_path, found, reduced(repository))


def test_nothing_that_is_read_is_lost_and_nothing_else_is_passed_on():
    vae = reduced("playgroundai/playground-v2.5-1024px-aesthetic")["vae"]
    assert vae["latents_mean"] == [-1.6574, 1.886, -1.383, 2.5155]
    assert "_class_name" not in vae
    unet = reduced("diffusers/stable-diffusion-xl-1.0-inpainting-0.1")["unet"]
    assert unet["in_channels"] == 9
    assert "optimization_step" not in unet


CLASS_EXAMPLES = {
    class_of(part, config): (part, config)
    for parts in PUBLISHED.values()
    for part, config in parts.items()
    if not part.startswith("tokenizer")
}


@pytest.mark.parametrize("class_name", sorted(CLASS_EXAMPLES.keys() & CLASSES.keys()))
@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_a_member_that_nobody_knows_is_refused_by_its_name_unless_it_is_null(class_name, engine):
    part, config = CLASS_EXAMPLES[class_name]
    config_check.reduced(f"{part}/config.json", class_name, config | {"use_new_thing": None}, engine)
    with pytest.raises(EngineError) as caught:
        config_check.reduced(f"{part}/config.json", class_name, config | {"use_new_thing": 2}, engine)
    assert caught.value.kind == "IntegrityError"
    assert "use_new_thing" in caught.value.message
    assert f"{part}/config.json" in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": [1, 2, 1]},
        {"transformer_layers_per_block": [1, [2, 2], [4, 4]]},
        {"transformer_layers_per_block": [0, 2, 4], "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]},
        {"mid_block_type": None},
        {"mid_block_type": "UNetMidBlock2D"},
        {"upcast_attention": None},
    ],
    ids=str,
)
def test_the_forms_of_distilled_unets_are_read(change):
    config = PUBLISHED["stabilityai/stable-diffusion-xl-base-1.0"]["unet"]
    assert config_check.reduced("unet/config.json", "UNet2DConditionModel", config | change, "torch")


ONLY_TORCH = {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "only_cross_attention": [False, True, False],
    "dual_cross_attention": True,
}


@pytest.mark.parametrize("member", sorted(CLASSES["UNet2DConditionModel"].runs["mlx"]))
def test_a_member_that_only_torch_applies_is_refused_by_mlx_and_by_name(member):
    config = PUBLISHED["stabilityai/stable-diffusion-xl-base-1.0"]["unet"] | {member: ONLY_TORCH[member]}
    assert config_check.reduced("unet/config.json", "UNet2DConditionModel", config, "torch")
    with pytest.raises(EngineError, match=f"{member} of .*; the torch engine can"):
        config_check.reduced("unet/config.json", "UNet2DConditionModel", config, "mlx")


def test_members_of_other_schedulers_are_carried_along():
    """A scheduler made from another one keeps that one's members; diffusers writes this infinity."""
    scheduler = PUBLISHED["stabilityai/stable-diffusion-xl-base-1.0"]["scheduler"]
    more = json.loads(
        '{"lambda_min_clipped": -Infinity, "solver_order": 2, "thresholding": false, "variance_type": null}'
    )
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"):
        assert config_check.reduced("scheduler/scheduler_config.json", name, scheduler | more, "torch")


MISFITS = {
    "stabilityai/stable-diffusion-xl-base-1.0": [
        ("unet", {"cross_attention_dim": 1024}),
        ("unet", {"in_channels": 9}),
        ("unet", {"projection_class_embeddings_input_dim": 2560}),
        ("unet", {"addition_time_embed_dim": 128}),
        ("text_encoder_2", {"projection_dim": 768}),
        ("text_encoder", {"num_attention_heads": 7}),
        ("vae", {"block_out_channels": [128, 256]}),
        ("vae", {"norm_num_groups": 48}),
        ("vae", {"out_channels": 4}),
    ],
    "black-forest-labs/FLUX.1-dev": [
        ("transformer", {"in_channels": 384}),
        ("transformer", {"pooled_projection_dim": 1024}),
        ("transformer", {"joint_attention_dim": 2048}),
        ("transformer", {"axes_dims_rope": [16, 56, 58]}),
        ("text_encoder", {"hidden_size": 1024}),
        ("text_encoder_2", {"d_model": 2048}),
        ("vae", {"latent_channels": 4}),
    ],
    "black-forest-labs/FLUX.2-klein-4B": [
        ("transformer", {"in_channels": 64}),
        ("transformer", {"joint_attention_dim": 2560}),
        ("transformer", {"axes_dims_rope": [32, 32, 32, 30]}),
        ("text_encoder", {"num_hidden_layers": 27}),
        ("text_encoder", {"hidden_size": 2048}),
        ("vae", {"latent_channels": 16}),
    ],
    "stabilityai/stable-diffusion-3.5-medium": [
        ("transformer", {"caption_projection_dim": 2432}),
        ("transformer", {"dual_attention_layers": [24]}),
        ("transformer", {"pooled_projection_dim": 768}),
        ("text_encoder_3", {"d_model": 1024}),
        ("text_encoder", {"num_hidden_layers": 1}),
    ],
}


@pytest.mark.parametrize(
    ("repository", "part", "change"),
    [(repository, part, change) for repository, rows in MISFITS.items() for part, change in rows],
    ids=lambda value: str(value)[-60:],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_built(repository, part, change):
    configs = copy.deepcopy(reduced(repository))
    configs[part] |= change
    with pytest.raises(EngineError) as caught:
        part_sizes.require_fit(PIPELINES[repository], configs)
    assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize(
    ("member", "value", "repeats"),
    [("dense_act_fn", "gelu_new", True), ("dense_act_fn", "gelu", False), ("dense_act_fn", None, True),
     ("is_gated_act", True, True), ("is_gated_act", False, False)],
)  # fmt: skip
def test_what_repeats_another_member_says_the_same(member, value, repeats):
    """If a file has both, transformers uses these two and not ``feed_forward_proj``."""
    config = PUBLISHED["black-forest-labs/FLUX.1-dev"]["text_encoder_2"]
    assert config["feed_forward_proj"] == "gated-gelu"
    if repeats:
        config_check.reduced("a/config.json", "T5EncoderModel", config | {member: value}, "torch")
        return
    with pytest.raises(EngineError, match=rf"its {member} is {value!r}, but its other members say"):
        config_check.reduced("a/config.json", "T5EncoderModel", config | {member: value}, "torch")


def test_an_encoder_that_says_that_it_is_a_decoder_is_refused():
    """transformers would mask what follows each token."""
    config = PUBLISHED["black-forest-labs/FLUX.1-dev"]["text_encoder_2"]
    assert config_check.reduced("a/config.json", "T5EncoderModel", config | {"is_decoder": False}, "mlx")
    with pytest.raises(EngineError, match="its is_decoder is True"):
        config_check.reduced("a/config.json", "T5EncoderModel", config | {"is_decoder": True}, "mlx")


def test_what_was_left_to_the_class_is_left_to_it_again():
    """Like diffusers: an edited value does not count if the file says that nobody gave one."""
    config = {"shift": 3.0, "num_train_timesteps": 100, "_use_default_values": ["shift", "base_shift"]}
    kept = config_check.reduced("a/config.json", "FlowMatchEulerDiscreteScheduler", config, "torch")
    assert kept == {"num_train_timesteps": 100}
    for wrong in ("shift", [1], {"shift": 1}):
        config |= {"_use_default_values": wrong}
        with pytest.raises(EngineError, match="its _use_default_values"):
            config_check.reduced("a/config.json", "FlowMatchEulerDiscreteScheduler", config, "torch")


@pytest.mark.timeout(30)  # opening it would block forever
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(EngineError, match=r"config.json cannot be used: it is not a regular file"):
        model_folder.read_json(tmp_path, "config.json")
