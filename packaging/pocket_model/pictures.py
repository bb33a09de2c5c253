"""Turns things into 128 × 128 pixels: rendering, and placing on a coloured background.

    python -m pocket_model.pictures [--work WORK] [--sheet FILE]

Every thing is cut to what is drawn, scaled so that its longer side has EXTENT pixels, and kept with its transparency in
``WORK/pictures.npy`` ([styles, things, 128, 128, 4] uint8). ``composite`` puts it on a background.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pocket_model import places
from pocket_model.drawings import COLOURS
from pocket_model.things import STYLES, Thing, all_things, fetched, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 128
EXTENT = 108
_RENDERED = 224
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {0} {1}">{2}</svg>'
)
BACKGROUNDS = tuple(COLOURS)
DEFAULT_BACKGROUND = "white"
"""The background of a thing when the prompt does not name one."""


def rendered(work: Path, things: list[Thing]) -> np.ndarray:
    """[styles, things, 128, 128, 4] uint8, from the cache if it is there."""
    file = work / "pictures.npy"
    if not file.exists():
        made = np.zeros((len(STYLES), len(things), SIDE, SIDE, 4), np.uint8)
        for row, style in enumerate(STYLES):
            draw = _solid(work) if style == "3d" else _vector(work, style)
            for column, thing in enumerate(things):
                made[row, column] = _fitted(draw(thing.keys[row]))
        with (work / "pictures.new").open("wb") as out:
            np.save(out, made)
        (work / "pictures.new").replace(file)
    pictures = np.load(file, mmap_mode="r")
    if pictures.shape[:2] != (len(STYLES), len(things)):
        raise SystemExit(f"{file} is of another list of things; remove it")
    return pictures


def _vector(work: Path, style: str) -> Callable[[str], Image.Image]:
    import resvg_py  # pyright: ignore[reportMissingImports]  only rendering needs it

    icons = read_json(fetched(work, style) / "icons.json")

    def draw(key: str) -> Image.Image:
        icon = icons["icons"].get(key) or icons["icons"][icons["aliases"][key]["parent"]]
        wide, high = (icon.get(k, icons[k]) for k in ("width", "height"))
        svg = _SVG.format(wide, high, icon["body"])
        data = resvg_py.svg_to_bytes(svg_string=svg, width=_RENDERED, skip_system_fonts=True)
        return Image.open(io.BytesIO(data)).convert("RGBA")

    return draw


def _solid(work: Path) -> Callable[[str], Image.Image]:
    folder = fetched(work, "3d") / "assets"
    return lambda key: Image.open(folder / f"{key}.webp").convert("RGBA")


def _fitted(image: Image.Image) -> np.ndarray:
    box = image.getchannel("A").point([0] * 17 + [255] * 239).getbbox()
    cut = image.crop(box)
    factor = EXTENT / max(cut.size)
    wide, high = (max(1, round(s * factor)) for s in cut.size)
    # Averages are taken of colours times opacity: what is invisible must not bleed into the edges.
    cut = cut.convert("RGBa").resize((wide, high), Image.Resampling.BOX if factor < 0.5 else Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (SIDE, SIDE))
    page.paste(cut.convert("RGBA"), ((SIDE - wide) // 2, (SIDE - high) // 2))
    return np.asarray(page)


def composite(picture: np.ndarray, ground: np.ndarray, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """[..., 128, 128, 3] float32 in 0…255: pictures with transparency on plain colours, moved by whole pixels.

    :param picture: [..., 128, 128, 4] uint8.
    :param ground: [..., 3] colours in 0…255.
    """
    if shift != (0, 0):
        picture = np.roll(picture, shift, (-3, -2))
    rgb, alpha = picture[..., :3].astype(np.float32), picture[..., 3:].astype(np.float32) / 255
    behind = np.asarray(ground, np.float32)[..., None, None, :]
    return behind + alpha * (rgb - behind)


def contact_sheet(pictures: np.ndarray, columns: int = 24, side: int = 64) -> Image.Image:
    """Pictures [n, h, w, 3] in rows, each reduced to ``side``."""
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        small = Image.fromarray(np.rint(picture).clip(0, 255).astype(np.uint8)).resize((side, side))
        page.paste(small, (i % columns * side, i // columns * side))
    return page


def main() -> None:
    """Renders everything; writes a contact sheet of every ninth thing in all styles, on changing backgrounds."""
    parser = places.parser(__doc__)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--every", type=int, default=9)
    options = parser.parse_args()
    things = all_things(options.work)
    pictures = rendered(options.work, things)
    print(pictures.shape)
    if options.sheet:
        palette = np.asarray(list(COLOURS.values()), np.float32)
        shown = [
            composite(pictures[s, i], palette[(i // options.every + s * 5) % len(palette)])
            for i in range(0, len(things), options.every)
            for s in range(len(STYLES))
        ]
        contact_sheet(np.stack(shown)).save(options.sheet)


if __name__ == "__main__":
    main()
