"""Whole folders of published models: the true configurations with random weights, and tokenizers that make few tokens.

The real tokenizers are not available here. Those of the fixtures replace them: all their numbers exist in the real
tables, and a prompt is padded to the real lengths, so that every array has its real size.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from support.synthetic import FLUX, PUBLISHED, Published, write

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "fixtures"))  # tokenizers, indexes and schedulers are made there

CLIP: dict[str, Any] = {
    "model_type": "clip_text_model", "vocab_size": 49408, "max_position_embeddings": 77, "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 49406, "eos_token_id": 2,
}  # fmt: skip
CLIP_L = CLIP | {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
CLIP_G = CLIP | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
VAE: dict[str, Any] = {
    "act_fn": "silu", "in_channels": 3, "out_channels": 3, "sample_size": 1024, "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32, "force_upcast": True,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip
SDXL_VAE = {key: value for key, value in VAE.items() if key != "shift_factor"} | {
    "latent_channels": 4, "scaling_factor": 0.13025, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
FLUX2_VAE: dict[str, Any] = {
    "act_fn": "silu", "in_channels": 3, "out_channels": 3, "sample_size": 1024, "latent_channels": 32,
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
    "use_quant_conv": True, "use_post_quant_conv": True, "batch_norm_eps": 1e-4, "patch_size": [2, 2],
}  # fmt: skip
DEV_PARTS = {
    "text_encoder": Published("transformers", "CLIPTextModel", CLIP_L),
    "text_encoder_2": PUBLISHED["t5-xxl"],
    "transformer": PUBLISHED["flux.1-dev"],
    "vae": Published("diffusers", "AutoencoderKL", VAE),
}
SCHNELL = Published("diffusers", "FluxTransformer2DModel", FLUX | {"guidance_embeds": False})
SD3_PARTS = {
    "text_encoder": Published("transformers", "CLIPTextModelWithProjection", CLIP_L),
    "text_encoder_2": Published("transformers", "CLIPTextModelWithProjection", CLIP_G),
    "text_encoder_3": PUBLISHED["t5-xxl"],
    "vae": Published("diffusers", "AutoencoderKL", VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
}
PARTS = {
    "sdxl-lightning": {
        "text_encoder": Published("transformers", "CLIPTextModel", CLIP_L),
        "text_encoder_2": Published("transformers", "CLIPTextModelWithProjection", CLIP_G),
        "unet": PUBLISHED["sdxl-lightning"],
        "vae": Published("diffusers", "AutoencoderKL", SDXL_VAE),
    },
    "sd3.5-medium": SD3_PARTS | {"transformer": PUBLISHED["sd3.5-medium"]},
    "sd3.5-large": SD3_PARTS | {"transformer": PUBLISHED["sd3.5-large"]},
    "flux.1-dev": DEV_PARTS,
    "flux.1-kontext-dev": DEV_PARTS,
    "flux.1-schnell": DEV_PARTS | {"transformer": SCHNELL},
    "z-image-turbo": {
        "text_encoder": PUBLISHED["qwen3-4b"],
        "transformer": PUBLISHED["z-image-turbo"],
        "vae": DEV_PARTS["vae"],
    },
    "flux.2-klein-4b": {
        "text_encoder": Published("transformers", "Qwen3ForCausalLM", PUBLISHED["qwen3-4b"].config),
        "transformer": PUBLISHED["flux.2-klein-4b"],
        "vae": Published("diffusers", "AutoencoderKLFlux2", FLUX2_VAE),
    },
}


def write_model(folder: Path, model: str) -> int:
    """Write ``model`` into ``folder / model`` and its catalogue entry beside it, as a host's own catalogue has it.

    A component that another model in ``folder`` already has is linked, not written again.

    :returns: the number of bytes of its weights.
    """
    import make_models

    made: Any = make_models

    into = folder / model
    flux, sdxl = model.startswith("flux.1"), model.startswith("sdxl")
    if model in ("z-image-turbo", "flux.2-klein-4b"):
        clips, t5 = (), None
        index, scheduler = made.Z_IMAGE_INDEX, made.Z_IMAGE_SCHEDULER
        if model == "flux.2-klein-4b":
            index, scheduler = made.FLUX2_INDEX, made.FLUX_SCHEDULER
        made.write_tokenizer(into / "tokenizer", made.qwen_tokenizer())
    elif sdxl:
        index, scheduler, clips, t5 = made.SDXL_INDEX, made.SDXL_SCHEDULER, ("tokenizer", "tokenizer_2"), None
    elif flux:
        index, clips, t5 = made.FLUX_INDEX, ("tokenizer",), "tokenizer_2"
        fixed = {"shift": 1.0, "use_dynamic_shifting": False} if model == "flux.1-schnell" else {}
        scheduler = made.FLUX_SCHEDULER | fixed
        if "kontext" in model:
            index = index | {"_class_name": "FluxKontextPipeline"}
    else:
        index, scheduler = made.SD3_INDEX, made.SCHEDULER
        clips, t5 = ("tokenizer", "tokenizer_2"), "tokenizer_3"
    made.write_json(into / "model_index.json", index)
    made.write_json(into / "scheduler" / "scheduler_config.json", scheduler)
    for name in clips:
        made.write_tokenizer(into / name, made.clip_tokenizer("!"))
    if t5:
        made.write_tokenizer(into / t5, made.t5_tokenizer())
    size = 0
    for name, published in PARTS[model].items():
        twin = _twin(folder, published)
        if twin is None:
            size += write(into / name, published)
        else:
            shutil.copytree(twin, into / name, copy_function=os.link)
    shipped = ROOT / "sidecar" / "locara_sidecar" / "models" / "catalogue" / f"{model}.json"
    entry = json.loads(shipped.read_text(encoding="utf-8"))
    entry |= {"id": f"{model}-synthetic", "source": {"path": model}, "gated": False, "downloadBytes": 0}
    made.write_json(folder / f"{model}.json", entry)
    return size


def _twin(folder: Path, published: Published) -> Path | None:
    """Return the folder of the same component in a model that has been written."""
    for model, parts in PARTS.items():
        for name, other in parts.items():
            if other == published and (folder / f"{model}.json").is_file():
                return folder / model / name
    return None
