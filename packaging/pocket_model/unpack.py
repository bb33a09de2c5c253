"""Takes a shipped folder apart again, so that its training can go on without the checkpoint that made it.

    python -m pocket_model.unpack FOLDER [--work WORK] --step N

Writes ``WORK/autoencoder``, the text side and a ``WORK/transformer.pt`` at step N. What was shipped is the moving
average in bfloat16, and no optimiser: training goes on from there, not as if it had never stopped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection

from pocket_model import places
from pocket_model.channels import narrowed_autoencoder, narrowed_transformer
from pocket_model.train_text import DONE, FOLDERS


def main() -> None:
    """Writes what ``train_transformer`` goes on from."""
    parser = places.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int, required=True, help="how many steps the shipped transformer has seen")
    options = parser.parse_args()
    folder, work = options.folder, options.work
    work.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    narrowed_autoencoder(vae).save_pretrained(work / "autoencoder")
    for name in FOLDERS:
        CLIPTextModelWithProjection.from_pretrained(folder / name, dtype=torch.float32).save_pretrained(work / name)
    (work / DONE).touch()
    shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    weights = narrowed_transformer(transformer).state_dict()
    torch.save({"step": options.step, "model": weights, "average": weights, "optimiser": None}, work / "transformer.pt")


if __name__ == "__main__":
    main()
