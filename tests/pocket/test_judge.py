"""The pocket model's judge recognises true pictures and rejects wrong ones."""

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("PIL")

from pocket_model.drawings import CELLS, COLOURS, SHAPES  # noqa: E402
from pocket_model.judge import Judge, ground_of, look_shape  # noqa: E402
from pocket_model.pictures import composite  # noqa: E402
from pocket_model.scenes import CENTRES, SIZES, Scene, Shape, coverage, drawn, placed  # noqa: E402
from pocket_model.things import STYLES  # noqa: E402

THINGS = 10


@pytest.fixture(scope="module")
def pictures():
    """Ten things in three styles: each is a few blobs, which each style colours a little differently."""
    made = np.zeros((len(STYLES), THINGS, 128, 128, 4), np.uint8)
    for thing in range(THINGS):
        rng = np.random.default_rng(thing)
        for _ in range(4):
            centre, extent = tuple(rng.uniform(40, 88, 2)), rng.uniform(25, 60)
            inside = coverage(SHAPES[rng.integers(len(SHAPES))], centre, extent) > 0.5
            colour = rng.uniform(30, 225, 3)
            for style in range(len(STYLES)):
                made[style, thing, inside] = [*(colour + 12 * style), 255]
    return made


@pytest.fixture(scope="module")
def judge(pictures):
    return Judge(pictures)


def noisy(picture, seed=0):
    noise = np.random.default_rng(seed).normal(0, 5, (128, 128, 3))
    return np.rint(picture + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ground", ["white", "black", "purple", "yellow"])
def test_every_true_picture_is_recognised_on_any_ground(judge, pictures, ground):
    for style in range(len(STYLES)):
        for thing in range(THINGS):
            seen = judge.look(noisy(composite(pictures[style, thing], np.asarray(COLOURS[ground]))))
            assert (seen.thing, seen.style, seen.ground_name, seen.blank) == (thing, STYLES[style], ground, False)


def test_a_picture_of_nothing_is_blank(judge):
    seen = judge.look(noisy(np.full((128, 128, 3), 141.0)))
    assert seen.blank
    assert seen.ground_name == "gray"


def test_another_thing_is_not_taken_for_the_asked_one(judge, pictures):
    mixed = composite(pictures[0, 1], np.asarray(COLOURS["blue"]))
    assert judge.look(noisy(mixed)).thing != 2


def test_the_ground_is_found_behind_a_thing_that_reaches_the_border():
    picture = np.full((128, 128, 3), 130.0)
    picture[:, 30:70] = (250, 10, 10)
    np.testing.assert_allclose(ground_of(noisy(picture)), (130, 130, 130), atol=3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_shape_is_read_in_every_place(shape, size):
    for number, cell in enumerate(CELLS):
        colour = list(COLOURS)[number]
        ground = COLOURS["white" if colour != "white" else "black"]
        scene = Scene(ground, shape=placed(shape, COLOURS[colour], cell, SIZES[size]))
        seen = look_shape(noisy(drawn(scene, np.zeros(0)), number))
        assert (seen.shape, seen.colour, seen.cell, seen.alone) == (shape, colour, cell, True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_fills_the_picture_is_read(shape):
    scene = Scene(COLOURS["white"], shape=Shape(shape, COLOURS["red"], 84.0, (CENTRES[1], CENTRES[1])))
    seen = look_shape(noisy(drawn(scene, np.zeros(0))))
    assert (seen.shape, seen.colour, seen.cell) == (shape, "red", "center")


def test_an_empty_picture_shows_no_shape():
    assert look_shape(noisy(np.full((128, 128, 3), 90.0))) is None
