"""The judge must be beyond doubt on real drawings, or its marks on generated ones mean nothing."""

import pytest

np = pytest.importorskip("numpy")

from pocket_model.captions import Asked, Caption  # noqa: E402
from pocket_model.drawings import COLOURS, SHAPES, Scene, Thing, draw, sample_scene  # noqa: E402
from pocket_model.judge import Score, agrees, look, mark  # noqa: E402


@pytest.mark.parametrize("two", [False, True])
def test_every_attribute_of_a_real_drawing_is_read_back(two):
    rng = np.random.default_rng(11)
    for number in range(120 if two else 240):
        scene = sample_scene(rng, two=two, held_out=number % 3 == 0)
        assert agrees(scene, look(draw(scene, rng))), scene


def test_every_shape_in_every_colour_is_told_apart_when_small():
    rng = np.random.default_rng(12)
    for shape in SHAPES:
        for colour in COLOURS:
            scene = Scene("white" if colour != "white" else "black", (Thing(shape, colour, "center", "small"),))
            assert agrees(scene, look(draw(scene, rng)))


def test_an_empty_picture_shows_nothing_and_gets_no_marks_for_its_thing():
    empty = np.full((64, 64, 3), COLOURS["blue"], np.uint8)
    score = Score.zero()
    asked = Caption("a red star on a blue background", "blue", (Asked("star", "red"),))
    assert not mark(score, asked, empty)
    assert score.right == {"background": 1, "shape": 0, "colour": 0, "count": 0, "everything": 0}


def test_a_wrong_picture_loses_exactly_the_marks_it_should():
    rng = np.random.default_rng(13)
    picture = draw(Scene("blue", (Thing("heart", "red", "top left", "large"),)), rng)
    score = Score.zero()
    mark(score, Caption("", "blue", (Asked("star", "red", "top left", "small"),)), picture)
    assert score.right == {"background": 1, "shape": 0, "colour": 1, "cell": 1, "size": 0, "count": 1, "everything": 0}


def test_a_relation_is_judged_by_where_the_things_stand():
    rng = np.random.default_rng(14)
    things = (Thing("circle", "red", "left", "small"), Thing("square", "blue", "right", "large"))
    picture = draw(Scene("white", things), rng)
    asked = (Asked("circle", "red"), Asked("square", "blue"))
    assert mark(Score.zero(), Caption("", "white", asked, "left"), picture)
    assert not mark(Score.zero(), Caption("", "white", asked, "right"), picture)
