"""The judge must be reliable on real drawings, or its marks for generated ones mean nothing."""

import pytest

np = pytest.importorskip("numpy")

from pocket_model.drawings import COLOURS, SHAPES, Scene, Thing, draw, sample_scene  # noqa: E402
from pocket_model.shape_judge import agrees, look  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("two", [False, True])
def test_every_attribute_of_a_real_drawing_is_read_back(two):
    rng = np.random.default_rng(11)
    for _ in range(120 if two else 240):
        scene = sample_scene(rng, two=two)
        assert agrees(scene, look(draw(scene, rng))), scene


def test_every_shape_in_every_colour_is_told_apart_when_small():
    rng = np.random.default_rng(12)
    for shape in SHAPES:
        for colour in COLOURS:
            scene = Scene("white" if colour != "white" else "black", (Thing(shape, colour, "center", "small"),))
            assert agrees(scene, look(draw(scene, rng)))
