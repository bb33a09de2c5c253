"""What is held out is really held out: pairs of shape and colour, and wordings."""

import pytest

np = pytest.importorskip("numpy")

from pocket_model.captions import Asked, random_caption, write  # noqa: E402
from pocket_model.drawings import (  # noqa: E402
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    TRAINING_PAIRS,
    Scene,
    Thing,
    is_held_out,
    sample_scene,
)


def test_every_shape_and_every_colour_is_trained_on_and_some_pairs_are_not():
    assert set(HELD_OUT_PAIRS).isdisjoint(TRAINING_PAIRS)
    assert len(HELD_OUT_PAIRS) == 2 * len(SHAPES)
    assert {s for s, _ in TRAINING_PAIRS} == set(SHAPES)
    assert {c for _, c in TRAINING_PAIRS} == set(COLOURS)


@pytest.mark.parametrize("two", [False, True])
def test_scenes_keep_to_their_side_of_the_split(two):
    rng = np.random.default_rng(21)
    for _ in range(500):
        assert not any(is_held_out(t.shape, t.colour) for t in sample_scene(rng, two=two).things)
        assert all(is_held_out(t.shape, t.colour) for t in sample_scene(rng, two=two, held_out=True).things)


def test_training_never_uses_a_held_out_wording():
    rng = np.random.default_rng(22)
    captions = [random_caption(sample_scene(rng, two=i % 8 == 0), rng) for i in range(2000)]
    # A caption that says neither shape nor colour may have one wording only; held-out prompts always say both.
    assert not any(c.held_out for c in captions if all(t.shape and t.colour for t in c.things))
    found = [write(sample_scene(rng, held_out=True), rng, held_out=True).held_out for _ in range(200)]
    assert sum(found) >= 195


def test_a_caption_says_what_it_claims_to_say_and_nothing_else():
    rng = np.random.default_rng(23)
    scene = Scene("blue", (Thing("star", "red", "top left", "small"),))
    caption = write(scene, rng, asked=[Asked("yes", "yes")], background=False, plain=True)
    assert caption.background is None
    assert caption.things == (Asked("star", "red"),)
    assert "star" in caption.text
    assert not any(word in caption.text.split() for word in ("blue", "top", "small", "tiny"))


def test_there_are_many_ways_to_ask_for_one_picture():
    rng = np.random.default_rng(24)
    scene = Scene("white", (Thing("heart", "orange", "center", "medium"),))
    assert len({write(scene, rng).text for _ in range(300)}) > 280
