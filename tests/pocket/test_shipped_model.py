"""The shipped weights draw what they are asked for; a small sample of what ``pocket_model.evaluate`` measures."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "sidecar" / "locara_sidecar" / "models" / "pocket"

pytest.importorskip("diffusers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def pipeline():
    from pocket_model.evaluate import load

    return load(FOLDER)


def test_the_folder_is_small_enough_to_ship():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) <= 25_000_000
    assert (FOLDER / "MODEL_CARD.md").exists()


def test_held_out_prompts_come_out_right(pipeline):
    from pocket_model.evaluate import Settings, generate, held_out, measure

    captions = held_out(24)
    score, _ = measure(captions, generate(pipeline, [c.text for c in captions], Settings(12, 3.0)))
    assert score.share("shape") >= 0.9
    assert score.share("colour") >= 0.95
    assert score.share("background") >= 0.95
    assert score.share("cell") >= 0.9


def test_the_autoencoder_keeps_edges(pipeline):
    from pocket_model.train_autoencoder import psnr, scene_pictures

    assert psnr(pipeline.vae, scene_pictures(64, 31, held_out=True)) >= 32


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


def test_the_linear_preview_finds_the_colours_of_a_drawing(pipeline):
    import numpy as np
    import torch

    from pocket_model.train_autoencoder import scene_pictures, to_tensor

    preview = json.loads((FOLDER / "linear_preview.json").read_text())
    assert preview["format"] == "locara-linear-preview/1"
    x = to_tensor(scene_pictures(16, 32))
    with torch.no_grad():
        latent = pipeline.vae.encode(x).latent_dist.mode()
    rgb = latent.permute(0, 2, 3, 1).numpy() @ np.array(preview["matrix"]) + np.array(preview["bias"])
    small = torch.nn.functional.avg_pool2d(x, 4).permute(0, 2, 3, 1).numpy()
    assert np.sqrt(((rgb - small) ** 2).mean()) < 0.15


def test_the_word_list_is_that_of_the_captions():
    from pocket_model.captions import known_words

    stored = json.loads((FOLDER / "word_list.json").read_text())
    assert stored["words"] == known_words()
    assert {"circle", "red", "left", "tiny"} <= set(stored["words"])
    assert all(set(example.lower().split()) & set(stored["words"]) for example in stored["examples"])
