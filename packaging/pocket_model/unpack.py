"""Takes a shipped folder apart again, so that its training can go on without the checkpoint that made it.

    python -m pocket_model.unpack FOLDER --work WORK --step N

Writes ``WORK/autoencoder``, the text side, ``WORK/scale.txt`` and a ``WORK/checkpoint.pt`` at step N.
What was shipped is the moving average in bfloat16, and no optimiser: training goes on from there,
not as if it had never stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection


def main() -> None:
    """Writes the work folder of ``train_model``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--step", type=int, required=True, help="how many steps the shipped transformer has seen")
    options = parser.parse_args()
    folder, work = options.folder, options.work
    work.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    (work / "scale.txt").write_text(f"{vae.config.shift_factor} {vae.config.scaling_factor}\n")
    vae.save_pretrained(work / "autoencoder")
    for name in ("text_encoder", "text_encoder_2"):
        CLIPTextModelWithProjection.from_pretrained(folder / name, dtype=torch.float32).save_pretrained(work / name)
    shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    weights = transformer.state_dict()
    state = {"step": options.step, "fresh": options.step, "model": weights, "average": weights, "optimiser": None}
    torch.save(state, work / "checkpoint.pt")


if __name__ == "__main__":
    main()
