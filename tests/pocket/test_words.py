"""Which words mean which thing for the pocket model, and what its captions ask for."""

import re

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("torch")

from pocket_model import captions, words  # noqa: E402
from pocket_model.drawings import COLOURS  # noqa: E402
from pocket_model.scenes import DEFAULT_STYLE, FILLING, nearest_name  # noqa: E402
from pocket_model.shape_captions import shape_caption  # noqa: E402
from pocket_model.things import Thing  # noqa: E402

pytestmark = pytest.mark.torch

NAMES = ["cat", "cat face", "black cat", "dog", "pizza", "blue heart", "red heart", "automobile"]
NAMES += [f"toy {letter}" for letter in "abcdefghij"]
THINGS = [Thing(chr(65 + i), name, "Toys", ("", "", "")) for i, name in enumerate(NAMES)]


@pytest.fixture
def writer(monkeypatch, tmp_path):
    own = {
        "cat": {"pet": 3.0},
        "dog": {"pet": 2.0},
        "pizza": {"slice": 5.0},
        "cat face": {"cat": 3.0},
        "black cat": {"cat": 2.0},
    }
    scores = [{words.plain(t.name): 100.0, **own.get(t.name, {}), "toy": 1.0} for t in THINGS]
    monkeypatch.setattr(words, "keywords", lambda _work, _things: scores)
    return captions.Writer(tmp_path, THINGS)


def means(writer, phrase):
    return [NAMES[number] for number in writer.meanings.get(phrase, [])]


def test_a_name_means_its_thing_and_accepts_those_that_have_it_in_their_name(writer):
    assert means(writer, "cat") == ["cat", "cat face", "black cat"]


def test_a_keyword_means_the_thing_whose_own_it_is_most(writer):
    assert means(writer, "pet") == ["cat"]
    assert means(writer, "slice") == ["pizza"]


def test_a_word_of_too_many_things_means_none(writer):
    assert means(writer, "toy") == []


def test_what_people_say_stands_before_what_word_lists_say(writer):
    assert means(writer, "car") == ["automobile"]
    assert means(writer, "puppy") == ["dog"]


def test_a_coloured_shape_is_a_plain_shape_and_not_a_thing(writer):
    assert means(writer, "blue heart") == means(writer, "red heart") == means(writer, "circle") == []
    assert means(writer, "heart") == ["red heart"]


def test_what_a_caption_leaves_open_has_a_default(writer):
    caption = writer.of_thing(np.random.default_rng(1), thing=0, bare=True, says=False)
    assert caption.scene.style == DEFAULT_STYLE
    assert caption.scene.ground == COLOURS["white"]
    assert not caption.says_style
    assert not caption.says_ground
    shape = shape_caption(np.random.default_rng(1), full=False).scene.shape
    assert (shape.extent, shape.centre) == (FILLING, (64.0, 64.0))


def test_a_phrase_says_which_thing_and_what_it_is_called(writer):
    rng = np.random.default_rng(5)
    asked = [writer.of_thing(rng, phrase="puppy") for _ in range(30)]
    assert {c.scene.thing for c in asked} == {NAMES.index("dog")}
    assert all("puppy" in c.text for c in asked)


def test_a_plural_that_is_wanted_is_one_and_has_no_article(writer):
    rng = np.random.default_rng(6)
    wanted = [writer.of_thing(rng, phrase="pet", says=False, plural=True).text for _ in range(40)]
    assert all("pets" in text for text in wanted)
    assert not [text for text in wanted if re.search(r"\b(a|an|the|one) (\w+ )?pets", text)]
    others = ["pets" in writer.of_thing(rng, phrase="pet", says=False).text for _ in range(200)]
    assert 0 < sum(others) < 30


def test_the_prompts_that_the_figures_are_of_stay_what_they_are(writer):
    rng = np.random.default_rng((2028, 1))
    asked = [writer.of_thing(rng).text for _ in range(4)]
    assert asked == [
        "a tiny dog flat against red",
        "a feline, with an orange background",
        "show me a toy f",
        "black cat as an emoji",
    ]


def test_what_a_caption_says_is_in_its_scene(writer):
    rng = np.random.default_rng(2)
    for _ in range(50):
        caption = writer.of_thing(rng, thing=3, style="flat", ground="purple")
        assert ("flat" in caption.text) or ("2d" in caption.text)
        assert ("purple" in caption.text) or ("violet" in caption.text)
        assert (caption.scene.style, nearest_name(caption.scene.ground)) == ("flat", "purple")


def test_training_never_asks_for_a_scene_that_is_held_out(writer):
    rng = np.random.default_rng(3)
    asked = [writer.random(rng) for _ in range(400)]
    assert not [c.text for c in asked if c.scene is not None and writer.held_out(c.scene)]
    assert any(c.scene is None for c in asked)
    free = [writer.of_thing(rng, ground="green") for _ in range(100)]
    assert any(writer.held_out(c.scene) for c in free)


def test_the_known_words_name_things_colours_and_styles_and_no_fillers(writer):
    known = set(writer.known_words())
    assert {"cat", "pizza", "blue", "cartoon", "circle", "puppy", "left"} <= known
    assert not {"a", "please", "on", "background", "picture"} & known
