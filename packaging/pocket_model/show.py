"""Shows what the training has reached so far: a page of prompts, drawn with the moving average of the weights.

    python -m pocket_model.show [--work WORK] --to sheet.png [--steps 10] [--guidance 2] [--shift 1] [PROMPT ...]

Without prompts it draws sixty random captions. With ``--exact``, for use before the text encoders are trained, the
vectors are those that they will learn to output; until the autoencoder is trained, latents are decoded linearly.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from PIL import Image, ImageDraw
from torch import Tensor

from pocket_model import places
from pocket_model.captions import Writer
from pocket_model.codes import WIDTH, looks
from pocket_model.latents import CHANNELS, cached
from pocket_model.network import OneForMany, velocity
from pocket_model.pictures import rendered
from pocket_model.things import all_things
from pocket_model.train_text import Text, targets

SEED = 2027


@torch.no_grad()
def sample(
    model: SD3Transformer2DModel, codes: Tensor, noise: Tensor, steps: int, guidance: float, shift: float
) -> Tensor:
    """Latents by Euler steps with classifier-free guidance against the empty prompt; OneForMany must be set."""
    x, empty = noise, torch.zeros_like(codes)
    times = torch.linspace(1, 0, steps + 1)
    times = shift * times / (1 + (shift - 1) * times)
    for now, after in itertools.pairwise(times):
        t = now.expand(2 * len(x))
        without, given = velocity(model, torch.cat([x, x]), torch.cat([empty, codes]), t).chunk(2)
        x = x + (after - now) * (without + guidance * (given - without))
    return x


def page(pictures: np.ndarray, titles: list[str], columns: int = 10) -> Image.Image:
    """[n, 128, 128, 3] uint8 with a line or two of text below each."""
    wide, high = 134, 158
    sheet = Image.new("RGB", (wide * columns, high * -(-len(pictures) // columns)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x, y = i % columns * wide, i // columns * high
        sheet.paste(Image.fromarray(picture), (x + 3, y + 3))
        for line in range(2):
            pen.text((x + 3, y + 132 + 12 * line), title[22 * line : 22 * line + 22], fill="black")
    return sheet


def to_pixels(x: Tensor) -> np.ndarray:
    """[n, 3, h, w] in −1…1 to [n, h, w, 3] uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def main() -> None:
    """Writes the page."""
    parser = places.parser(__doc__)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--shift", type=float, default=1.0)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--linear", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = options.work
    texts: list[str] = list(options.prompts)
    if options.exact or not texts:
        things = all_things(work)
        writer = Writer(work, things)
        captions = [writer.random(np.random.default_rng((SEED, i))) for i in range(60)]
        texts = [c.text for c in captions]
        codes = targets(captions, looks(work, rendered(work, things))) if options.exact else Text(work)(texts)
    else:
        codes = Text(work)(texts)
    assert codes.shape[1] == WIDTH
    model: Any = SD3Transformer2DModel.from_pretrained(work / "transformer").eval()
    for block in model.transformer_blocks:
        block.attn.set_processor(OneForMany())
    noise = torch.randn(len(texts), CHANNELS, 32, 32, generator=torch.Generator().manual_seed(SEED))
    z = torch.cat([
        sample(model, c, n, options.steps, options.guidance, options.shift)
        for c, n in zip(codes.split(20), noise.split(20), strict=True)
    ])  # fmt: skip
    if options.linear or not (work / "autoencoder").exists():
        rgb = cached(work).decode(z)
    else:
        vae: Any = AutoencoderKL.from_pretrained(work / "autoencoder").eval()
        with torch.no_grad():
            rgb = torch.cat([vae.decode(part).sample for part in z.split(10)])
    page(to_pixels(rgb), texts).save(options.to)


if __name__ == "__main__":
    main()
