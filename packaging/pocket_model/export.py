"""Puts the trained parts together as a model folder: diffusers layout, bfloat16 weights.

    python -m pocket_model.export [--work WORK] --to FOLDER

Parts not trained yet are written untrained. The folder is built beside its destination and moved with one rename. It
includes the scheduler's shift, ``linear_preview.json``, ``word_list.json``, and the notices for the pictures and words
that the model was trained on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pocket_model import places
from pocket_model.captions import Writer
from pocket_model.channels import PUBLISHED, widened_autoencoder, widened_transformer
from pocket_model.codes import WIDTHS
from pocket_model.latents import BLOCK, CHANNELS, Latents, cached
from pocket_model.network import TIMESTEPS, build_transformer
from pocket_model.things import all_things
from pocket_model.tokenizer import save_tokenizer
from pocket_model.train_autoencoder import build_autoencoder
from pocket_model.train_text import (
    ACTIVATIONS,
    FOLDERS,
    LAYERS,
    STYLE_LOUDNESS,
    build_text_encoder,
    say_style_louder,
)

SHIFT = 1.0
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
EXAMPLES = ["a cat", "a rocket in 3d style", "a smiling sun on a purple background", "a red circle, top left"]
_HERE = Path(__file__).parent


def linear_preview(latents: Latents) -> dict[str, object]:
    """The mean colour of a latent's 4 × 4 pixels, which is exact for these latents: no fit is needed. Channels beyond
    the trained ones contribute nothing."""
    matrix = torch.cat([latents.backward.mean((2, 3)), torch.zeros(PUBLISHED - CHANNELS, 3)])
    bias = latents.mean.mean((1, 2))
    return {
        "format": "locara-linear-preview/1",
        "latentChannels": PUBLISHED,
        "matrix": [[round(v, 6) for v in row] for row in matrix.tolist()],
        "bias": [round(v, 6) for v in bias.tolist()],
    }


def main() -> None:
    """Writes the folder; prints its size."""
    parser = places.parser(__doc__)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    work: Path = options.work
    new: Path = options.to.with_name(options.to.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)

    folder = work / "autoencoder"
    vae = AutoencoderKL.from_pretrained(folder) if folder.exists() else build_autoencoder()
    wide: Any = widened_autoencoder(vae)  # what diffusers and transformers say of .to() fits no argument
    wide.to(torch.bfloat16).save_pretrained(new / "vae")
    folder = work / "transformer"
    transformer = SD3Transformer2DModel.from_pretrained(folder) if folder.exists() else build_transformer()
    wide = widened_transformer(transformer)
    wide.to(torch.bfloat16).save_pretrained(new / "transformer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(tokenizer, new / name)
    for name, width, layers, activation in zip(FOLDERS, WIDTHS, LAYERS, ACTIVATIONS, strict=True):
        trained = (work / name).exists()
        encoder: Any = (
            CLIPTextModelWithProjection.from_pretrained(work / name)
            if trained
            else build_text_encoder(tokenizer, width, layers, activation)
        )
        encoder.to(torch.bfloat16)
        if name == FOLDERS[0]:
            say_style_louder(encoder, STYLE_LOUDNESS)
        encoder.save_pretrained(new / name)
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=SHIFT).save_pretrained(new / "scheduler")
    for file in new.glob("*/config.json"):  # the paths of the trainer's files are private
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")
    words = Writer(work, all_things(work)).known_words()
    known = {"format": "locara-word-list/1", "words": words, "examples": EXAMPLES}
    index = {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.42.1", **LIBRARIES}
    (new / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (new / "word_list.json").write_text(json.dumps(known) + "\n")
    (new / "linear_preview.json").write_text(json.dumps(linear_preview(cached(work)), indent=1) + "\n")
    for name in ("THIRD_PARTY_NOTICES", "MODEL_CARD.md"):
        if (_HERE / name).exists():
            shutil.copy(_HERE / name, new)
    assert 2 ** (len(vae.config["block_out_channels"]) - 1) == BLOCK

    old = options.to.with_name(options.to.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if options.to.exists():
        options.to.rename(old)
    new.rename(options.to)
    shutil.rmtree(old, ignore_errors=True)
    print(f"{sum(f.stat().st_size for f in options.to.rglob('*') if f.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
