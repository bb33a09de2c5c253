"""Whole folders of published models: the true configurations with random weights, and tokenizers that make few tokens.

The real tokenizers cannot be had here. Those of the fixtures stand for them: all their numbers are words that the true
tables have, and a prompt is padded to the true lengths, so that every array has its true size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fullsize.synthetic import FLUX, PUBLISHED, Published, write

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
FLUX_PARTS = {
    "text_encoder": Published("transformers", "CLIPTextModel", CLIP_L),
    "text_encoder_2": PUBLISHED["t5-xxl"],
    "transformer": Published("diffusers", "FluxTransformer2DModel", FLUX | {"guidance_embeds": False}),
    "vae": Published("diffusers", "AutoencoderKL", VAE),
}
SD3_PARTS = {
    "text_encoder": Published("transformers", "CLIPTextModelWithProjection", CLIP_L),
    "text_encoder_2": Published("transformers", "CLIPTextModelWithProjection", CLIP_G),
    "text_encoder_3": PUBLISHED["t5-xxl"],
    "vae": Published("diffusers", "AutoencoderKL", VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
}
PARTS = {
    "flux.1-schnell": FLUX_PARTS,
    "sd3.5-medium": SD3_PARTS | {"transformer": PUBLISHED["sd3.5-medium"]},
    "sd3.5-large": SD3_PARTS | {"transformer": PUBLISHED["sd3.5-large"]},
}


def write_model(folder: Path, model: str) -> int:
    """Write ``model`` into ``folder / model`` and its catalogue entry beside it, as a host's own catalogue has it.

    :returns: bytes of its weights.
    """
    import make_models

    into = folder / model
    flux = model.startswith("flux")
    make_models.write_json(into / "model_index.json", make_models.FLUX_INDEX if flux else make_models.SD3_INDEX)
    scheduler = make_models.FLUX_SCHEDULER | {"shift": 1.0, "use_dynamic_shifting": False}
    make_models.write_json(into / "scheduler" / "scheduler_config.json", scheduler if flux else make_models.SCHEDULER)
    clips, t5 = (("tokenizer",), "tokenizer_2") if flux else (("tokenizer", "tokenizer_2"), "tokenizer_3")
    for name in clips:
        make_models.write_tokenizer(into / name, make_models.clip_tokenizer("!"))
    make_models.write_tokenizer(into / t5, make_models.t5_tokenizer())
    size = sum(write(into / name, published) for name, published in PARTS[model].items())
    shipped = ROOT / "sidecar" / "locara_sidecar" / "models" / "catalogue" / f"{model}.json"
    entry = json.loads(shipped.read_text(encoding="utf-8"))
    entry |= {"id": f"{model}-synthetic", "source": {"path": model}, "gated": False, "downloadBytes": 0}
    make_models.write_json(folder / f"{model}.json", entry)
    return size
