"""Takes a shipped folder apart, so that training can continue without the checkpoint that made it.

    python -m pocket_model.unpack FOLDER [--work WORK] --step N --text-step N

Writes ``WORK/autoencoder``, the text side, ``WORK/transformer.pt`` and ``WORK/text.pt`` at the given steps, and, from
pictures that ``pictures`` has rendered, the map of the latents that the autoencoder has learnt: a new fit might
differ. The shipped weights are moving averages in bfloat16, without optimisers: training continues from them, not as
if it had never stopped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection

from pocket_model import latents, places
from pocket_model.channels import narrowed_autoencoder, narrowed_transformer
from pocket_model.pictures import rendered
from pocket_model.scenes import drawn, random_scene
from pocket_model.things import all_things
from pocket_model.train_autoencoder import to_tensor
from pocket_model.train_text import DONE, FOLDERS, STYLE_LOUDNESS, say_style_louder

_SEED, _PICTURES = 23, 200


def main() -> None:
    """Writes what ``train_transformer`` continues from."""
    parser = places.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int, required=True, help="how many steps the shipped transformer has seen")
    parser.add_argument("--text-step", type=int, required=True, help="how many the shipped text encoders have seen")
    options = parser.parse_args()
    folder, work = options.folder, options.work
    work.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    autoencoder: Any = narrowed_autoencoder(vae)
    autoencoder.save_pretrained(work / "autoencoder")
    things = all_things(work)
    pictures, names = np.array(rendered(work, things)), [thing.name for thing in things]
    rng = np.random.default_rng(_SEED)
    x = to_tensor(np.stack([drawn(random_scene(rng, names), pictures) for _ in range(_PICTURES)]))
    with torch.no_grad():
        latents.keep(work, latents.recovered(x, autoencoder.encode(x).latent_dist.mode()))
    encoders = [CLIPTextModelWithProjection.from_pretrained(folder / f, dtype=torch.float32) for f in FOLDERS]
    say_style_louder(encoders[0], 1 / STYLE_LOUDNESS)
    for name, encoder in zip(FOLDERS, encoders, strict=True):
        encoder.save_pretrained(work / name)
    parts = [encoder.state_dict() for encoder in encoders]
    torch.save({"step": options.text_step, "parts": [*parts, *parts, None]}, work / "text.pt")
    (work / DONE).touch()
    shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    weights = narrowed_transformer(transformer).state_dict()
    torch.save({"step": options.step, "model": weights, "average": weights, "optimiser": None}, work / "transformer.pt")


if __name__ == "__main__":
    main()
