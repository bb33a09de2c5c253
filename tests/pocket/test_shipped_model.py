"""The shipped weights draw what they are asked for: a small sample of what ``pocket_model.evaluate`` measures.

The training pictures are not in the repository, so things are compared with each other.
"""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "sidecar" / "locara_sidecar" / "models" / "pocket"

np = pytest.importorskip("numpy")
pytest.importorskip("diffusers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

STEPS, GUIDANCE = 12, 2.0
NOUNS = ("cat", "pizza", "rocket", "sun", "car", "tree", "apple", "fish")


@pytest.fixture(scope="module")
def pipeline():
    from pocket_model.evaluate import load

    return load(FOLDER)


@pytest.fixture(scope="module")
def drawn(pipeline):
    """Pictures of the nouns, each asked for in two ways, [2, 8, 128, 128, 3]; every seed is different."""
    from pocket_model.evaluate import generate

    texts = [*NOUNS, *(f"please draw a cute {noun}" for noun in NOUNS)]
    return generate(pipeline, texts, STEPS, GUIDANCE).reshape(2, len(NOUNS), 128, 128, 3)


@pytest.fixture(scope="module")
def shapes():
    """[32, 3, 128, 128] in −1…1: drawings of coloured shapes."""
    from pocket_model.scenes import Scene, drawn, random_ground, random_shape
    from pocket_model.train_autoencoder import to_tensor

    rng, made = np.random.default_rng(31), []
    for _ in range(32):
        ground = random_ground(rng)
        made.append(drawn(Scene(ground, shape=random_shape(rng, ground)[0]), np.zeros(0)))
    return to_tensor(np.stack(made))


def test_the_folder_is_small_enough_to_ship():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) <= 40_000_000
    assert (FOLDER / "MODEL_CARD.md").exists()
    notices = (FOLDER / "THIRD_PARTY_NOTICES").read_text()
    assert all(name in notices for name in ("Noto", "Fluent", "emojibase", "MIT", "Apache"))


@pytest.mark.slow
def test_a_thing_is_the_same_however_it_is_asked_for_and_another_one_is_another(drawn):
    small = drawn.reshape(2, len(NOUNS), 32, 4, 32, 4, 3).astype(float).mean((3, 5)).reshape(2, len(NOUNS), -1)
    apart = np.sqrt(((small[0][:, None] - small[1][None]) ** 2).mean(-1))  # [first wording, second]
    right = apart.argmin(1) == np.arange(len(NOUNS))
    assert right.sum() >= len(NOUNS) - 1, apart.round()


def test_no_thing_is_blank_and_what_is_unsaid_is_white_ground(drawn):
    from pocket_model.judge import ground_of
    from pocket_model.scenes import nearest_name

    for picture in drawn.reshape(-1, 128, 128, 3):
        ground = ground_of(picture)
        assert nearest_name(ground) == "white"
        assert (np.abs(picture - np.asarray(ground)).max(-1) > 45).mean() > 0.02


def test_shapes_that_are_said_in_full_on_grounds_never_trained_come_out_right(pipeline):
    from pocket_model.evaluate import generate, mark_shape, shape_captions
    from pocket_model.scenes import held_out_shape, nearest_name
    from pocket_model.shape_judge import Score

    score, asked = Score.zero(), []
    for caption in shape_captions(400, True):
        shape, ground = caption.scene.shape, nearest_name(caption.scene.ground)
        if held_out_shape(shape.shape, nearest_name(shape.colour), ground):
            asked.append(caption)
    asked = asked[:24]
    assert len(asked) == 24
    for caption, picture in zip(asked, generate(pipeline, [c.text for c in asked], STEPS, GUIDANCE), strict=True):
        mark_shape(score, caption, picture)
    assert score.share("ground") >= 0.95
    assert score.share("colour") >= 0.9
    assert score.share("place") >= 0.95
    assert score.share("shape") >= 0.45  # small ones are the hardest: see the model card


@pytest.mark.slow
def test_shapes_of_which_little_is_said_come_out_large_and_right(pipeline):
    from pocket_model.evaluate import generate, mark_shape, shape_captions
    from pocket_model.shape_judge import Score

    score, asked = Score.zero(), shape_captions(16, False)
    for caption, picture in zip(asked, generate(pipeline, [c.text for c in asked], STEPS, GUIDANCE), strict=True):
        mark_shape(score, caption, picture)
    assert score.share("everything") >= 0.9


def test_pictures_from_the_text_encoders_vectors_are_those_from_the_text(pipeline):
    from pocket_model.evaluate import generate

    texts = ["a cat on blue", "pizza, flat"]
    pooled = pipeline.encode_prompt(texts, None, None, max_sequence_length=1)[2]
    empty = pipeline.encode_prompt("", None, None, max_sequence_length=1)[2]
    assert empty.abs().mean() < 0.05 * pooled.abs().mean()  # the vector of the empty prompt is taken for zeros
    said, given = generate(pipeline, texts, 3, GUIDANCE), generate(pipeline, pooled, 3, GUIDANCE)
    assert np.abs(said.astype(int) - given).mean() < 2


@pytest.mark.slow
def test_the_autoencoder_keeps_edges(pipeline, shapes):
    import torch

    from pocket_model.train_autoencoder import psnr

    with torch.no_grad():
        again = pipeline.vae.decode(pipeline.vae.encode(shapes).latent_dist.mode()).sample
    assert psnr(shapes, again) >= 30


def test_every_way_of_loading_the_tokenizer_gives_the_same_ids():
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, CLIPTokenizer

    fast = Tokenizer.from_file(str(FOLDER / "tokenizer" / "tokenizer.json"))
    loaders = [
        CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        AutoTokenizer.from_pretrained(FOLDER / "tokenizer_2"),
    ]
    for text in ("A Red CIRCLE, top-left!", "", "ein grüner Stern 日本 🎈", "don't  draw\na heart"):
        assert all(t(text).input_ids == fast.encode(text).ids for t in loaders)


def test_the_linear_preview_finds_the_colours_of_a_drawing(pipeline, shapes):
    import torch

    preview = json.loads((FOLDER / "linear_preview.json").read_text())
    assert preview["format"] == "locara-linear-preview/1"
    with torch.no_grad():
        latent = pipeline.vae.encode(shapes).latent_dist.mode()
    rgb = latent.permute(0, 2, 3, 1).numpy() @ np.array(preview["matrix"]) + np.array(preview["bias"])
    small = torch.nn.functional.avg_pool2d(shapes, 4).permute(0, 2, 3, 1).numpy()
    assert np.sqrt(((rgb - small) ** 2).mean()) < 0.15


def test_the_word_list_has_what_people_ask_for():
    stored = json.loads((FOLDER / "word_list.json").read_text())
    assert {"cat", "pizza", "cartoon", "circle", "red", "left", "tiny", "car"} <= set(stored["words"])
    assert "background" not in stored["words"]
    assert all(set(example.lower().split()) & set(stored["words"]) for example in stored["examples"])
