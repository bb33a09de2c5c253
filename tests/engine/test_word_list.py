"""Word lists beside small models: their stored form, and which prompts get a warning."""

import json

import pytest

from locara_sidecar.engine.drawing.prompts import word_list

KNOWN = word_list.WordList(frozenset({"cat", "circle", "rocket", "torch", "ñandú"}), ("a cat", "a red circle"))


def stored(folder, **changes):
    value = {"format": "locara-word-list/1", "words": ["cat", "Rocket"], "examples": ["a cat"]} | changes
    (folder / word_list.FILE_NAME).write_text(json.dumps(value), encoding="utf-8")
    return word_list.read(folder, str(changes))


def test_a_warning_is_short_whatever_the_prompt_is():
    prompt = " ".join(f"{number}{'x' * 2000}" for number in range(8))
    assert len(word_list.warning(prompt, KNOWN)) < 1000


def test_a_stored_list_is_read_back_in_lower_case(tmp_path):
    assert stored(tmp_path) == word_list.WordList(frozenset({"cat", "rocket"}), ("a cat",))


def test_another_model_in_the_same_place_is_read_anew(tmp_path):
    stored(tmp_path)
    (tmp_path / word_list.FILE_NAME).unlink()
    assert word_list.read(tmp_path, "sha256:another") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"words": []},
        {"words": None},
        {"words": [1]},
        {"words": {}},
        {"examples": [[]]},
        {"words": ["x" * 41]},
        {"words": [str(number) for number in range(20_001)]},
        {"examples": ["x" * 101]},
        {"examples": ["a cat"] * 9},
    ],
)
def test_a_list_of_another_form_is_no_list(tmp_path, changes):
    assert stored(tmp_path, **changes) is None


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '"x"', "[" * 100_000])
def test_a_file_that_is_no_list_is_passed_over(tmp_path, text):
    (tmp_path / word_list.FILE_NAME).write_text(text)
    assert word_list.read(tmp_path, text[:20]) is None


def test_a_model_without_a_list_is_never_told_about():
    assert word_list.warning("xyzzy", None) is None


@pytest.mark.parametrize(
    "prompt", ["a cat", "CAT!", "two cats", "torches, please", "xyzzy and a cat", "a cat's", "Ñandú"]
)
def test_a_prompt_with_any_known_word_is_not_told_about(prompt):
    assert word_list.warning(prompt, KNOWN) is None


@pytest.mark.parametrize("prompt", ["", "   ", "!?", "🎈"])
def test_a_prompt_without_words_is_not_told_about(prompt):
    assert word_list.warning(prompt, KNOWN) is None


def test_unknown_words_are_named_with_known_ones_that_look_alike_and_examples():
    message = word_list.warning("a rokcet, Circel", KNOWN)
    assert "('a', 'rokcet', 'circel')" in message
    assert "words that it knows: circle, rocket." in message or "words that it knows: rocket, circle." in message
    assert message.endswith("for example: a cat; a red circle.")


def test_where_no_known_word_looks_alike_only_examples_are_named():
    message = word_list.warning("猫 на крыше", KNOWN)
    assert "'猫'" in message
    assert "Similar" not in message


def test_a_long_prompt_is_quoted_in_part():
    message = word_list.warning(" ".join(f"xyzzy{n}" for n in range(500)), KNOWN)
    assert "…" in message
    assert len(message) < 600
