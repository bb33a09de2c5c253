"""Puts the trained parts together as the shipped folder: diffusers layout, bfloat16 weights.

    python -m pocket_model.export --work WORK --to FOLDER

Parts not trained yet are written untrained, so that others can build against the shapes. The folder is made beside its
place and then takes it in one rename. Also measures ``linear_preview.json``: the least-squares map from a latent as the
decoder takes it to the mean colour of its 4 × 4 pixels.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pocket_model.captions import known_words
from pocket_model.tokenizer import save_tokenizer
from pocket_model.train_autoencoder import build_autoencoder, scene_pictures, to_tensor
from pocket_model.train_model import TIMESTEPS, build_transformer

if TYPE_CHECKING:
    import numpy as np

SHIFT = 1.0
EXAMPLES = ["a large yellow star in the center of a blue background", "a small red heart, top left, white background"]
LIBRARIES = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@torch.no_grad()
def linear_preview(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[Tensor, Tensor, float]:
    """Matrix [16, 3] and bias [3] from an unscaled latent to rgb in −1…1, and the root mean square residual."""
    x = to_tensor(pictures)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(32)])
    rgb = F.avg_pool2d(x, 4).permute(0, 2, 3, 1).reshape(-1, 3).double()
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
    flat = torch.cat([flat, torch.ones(len(flat), 1)], 1)
    solution = torch.linalg.lstsq(flat, rgb).solution
    residual = float((flat @ solution - rgb).square().mean().sqrt())
    return solution[:-1], solution[-1], residual


def main() -> None:
    """Writes the folder; prints the size and the preview's residual."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    work: Path = options.work
    new: Path = options.to.with_name(options.to.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)

    vae = (
        AutoencoderKL.from_pretrained(work / "autoencoder") if (work / "autoencoder").exists() else build_autoencoder()
    )
    matrix, bias, residual = linear_preview(vae.eval(), scene_pictures(300, 77))
    scales = work / "scale.txt"
    shift, scale = map(float, scales.read_text().split()) if scales.exists() else (0.0, 1.0)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    vae.to(torch.bfloat16).save_pretrained(new / "vae")
    width = 0
    for name in ("text_encoder", "text_encoder_2"):
        encoder = CLIPTextModelWithProjection.from_pretrained(work / name)
        width += encoder.config.projection_dim
        encoder.to(torch.bfloat16).save_pretrained(new / name)
    trained = (work / "transformer").exists()
    transformer = SD3Transformer2DModel.from_pretrained(work / "transformer") if trained else build_transformer(width)
    transformer.to(torch.bfloat16).save_pretrained(new / "transformer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(tokenizer, new / name)
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=SHIFT).save_pretrained(new / "scheduler")
    for file in new.glob("*/config.json"):  # where the trainer's files lay is nobody's business
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")
    index = {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.42.1", **LIBRARIES}
    (new / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    preview = {
        "format": "locara-linear-preview/1",
        "latentChannels": len(matrix),
        "matrix": [[round(v, 6) for v in row] for row in matrix.tolist()],
        "bias": [round(v, 6) for v in bias.tolist()],
    }
    (new / "linear_preview.json").write_text(json.dumps(preview, indent=1) + "\n")
    known = {"format": "locara-word-list/1", "words": known_words(), "examples": EXAMPLES}
    (new / "word_list.json").write_text(json.dumps(known, indent=1) + "\n")
    card = options.to / "MODEL_CARD.md"
    if card.exists():
        shutil.copy(card, new)

    old = options.to.with_name(options.to.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if options.to.exists():
        options.to.rename(old)
    new.rename(options.to)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(f.stat().st_size for f in options.to.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB; linear preview residual {residual:.4f} of a range of 2")


if __name__ == "__main__":
    main()
