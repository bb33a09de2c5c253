"""Finds out from pixels which coloured shapes a picture shows, without any trained part.

The background is the most frequent colour name of the border. What differs from it is split into connected parts; each
part's colour is the name nearest its median, its cell that of its bounding box's centre, its size from the box's
longer side, its shape the one whose drawing, fitted to the box, overlaps it best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_model.drawings import CELLS, COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, coverage

BORDER = 2
DIFFERENT = 45.0
"""Distance in RGB from the background from which a pixel belongs to a thing."""
LEAST_AREA = 20
_SIZE_LIMITS = (19.0, 25.0)
_PALETTE = np.asarray(list(COLOURS.values()), np.float32)
_NAMES = list(COLOURS)


@dataclass(frozen=True)
class Seen:
    """What a picture shows: its background and its things, the largest first, each with its shape's overlap (0…1)."""

    background: str
    things: tuple[Thing, ...]
    overlaps: tuple[float, ...]


def nearest_colour(rgb: np.ndarray) -> str:
    """The palette's name nearest to one colour, [3] in 0…255."""
    return _NAMES[int(((_PALETTE - rgb) ** 2).sum(1).argmin())]


def look(picture: np.ndarray) -> Seen:
    """Judges a [64, 64, 3] uint8 picture."""
    pixels = picture.astype(np.float32)
    b = BORDER
    border = np.concatenate([p.reshape(-1, 3) for p in (pixels[:b], pixels[-b:], pixels[b:-b, :b], pixels[b:-b, -b:])])
    nearest = ((border[:, None] - _PALETTE) ** 2).sum(2).argmin(1)
    common = int(np.bincount(nearest, minlength=len(_NAMES)).argmax())
    ground = np.median(border[nearest == common], 0)
    parts = _parts(np.linalg.norm(pixels - ground, axis=2) > DIFFERENT)
    judged = [_thing(pixels, part, ground) for part in sorted(parts, key=lambda p: -int(p.sum()))]
    return Seen(_NAMES[common], tuple(t for t, _ in judged), tuple(o for _, o in judged))


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    # Connected parts (8 neighbours): let the largest index flow through the mask until nothing changes.
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max([padded[r : r + SIDE, c : c + SIDE] for r in range(3) for c in range(3)], 0) * mask
        if (spread == labels).all():
            break
        labels = spread
    return [p for i in np.unique(labels) if i and (p := labels == i).sum() >= LEAST_AREA]


def _thing(pixels: np.ndarray, part: np.ndarray, ground: np.ndarray) -> tuple[Thing, float]:
    distance = np.linalg.norm(pixels - ground, axis=2)
    solid = part & (distance >= 0.8 * np.percentile(distance[part], 75))
    rgb = np.median(pixels[solid], 0)
    # How far each pixel has gone from the background's colour to the thing's, near this part only.
    way = rgb - ground
    alpha = np.clip((pixels - ground) @ way / (way @ way), 0, 1)
    near = np.pad(part, 1)
    near = np.max([near[r : r + SIDE, c : c + SIDE] for r in range(3) for c in range(3)], 0)
    alpha = np.where(near, alpha, 0).astype(np.float32)
    (top, bottom), (left, right) = _span(alpha.max(1)), _span(alpha.max(0))
    cx, cy, extent = (left + right) / 2, (top + bottom) / 2, max(bottom - top, right - left)
    column, row = (min(2, max(0, int(c * 3 / SIDE))) for c in (cx, cy))
    shape, overlap = _shape(alpha, cx, cy, extent)
    size = list(SIZES)[sum(extent > limit for limit in _SIZE_LIMITS)]
    return Thing(shape, nearest_colour(rgb), CELLS[row * 3 + column], size), overlap


def _span(profile: np.ndarray) -> tuple[float, float]:
    # First and last edge of a profile, to a fraction of a pixel: the outermost pixel counts for as much as is covered.
    filled = np.flatnonzero(profile > 0.12)
    first, last = int(filled[0]), int(filled[-1])
    return first + 1 - float(profile[first]), last + float(profile[last])


def _shape(alpha: np.ndarray, cx: float, cy: float, extent: float) -> tuple[str, float]:
    best, found = -1.0, SHAPES[0]
    for shape in SHAPES:
        for grown in (-0.5, 0.5, 1.5):  # pointed shapes lose their tips to the threshold
            model = coverage(shape, cx, cy, extent + grown)
            overlap = float(np.minimum(model, alpha).sum() / np.maximum(model, alpha).sum())
            if overlap > best:
                best, found = overlap, shape
    return found, best


@dataclass
class Score:
    """Counts of what was requested and what was right, by attribute."""

    right: dict[str, int]
    asked: dict[str, int]

    @classmethod
    def zero(cls) -> Score:
        return cls({}, {})

    def add(self, attribute: str, right: bool) -> None:
        self.asked[attribute] = self.asked.get(attribute, 0) + 1
        self.right[attribute] = self.right.get(attribute, 0) + right

    def share(self, attribute: str) -> float:
        """The share of the requested ones that were right, in 0…1."""
        return self.right[attribute] / self.asked[attribute]

    def __str__(self) -> str:
        return "  ".join(f"{a} {100 * self.share(a):.1f} %" for a in self.asked)


def agrees(scene: Scene, seen: Seen) -> bool:
    """Whether a judgement finds exactly the scene; the order of two things does not matter."""
    return seen.background == scene.background and set(seen.things) == set(scene.things)
