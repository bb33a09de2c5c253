"""Weight files written by older libraries hold the same model: each engine draws the same picture from them."""

import shutil

import numpy as np
import pytest

from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

CLIP = "text_encoder/model.safetensors"
T5 = "text_encoder_3/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
IDS = "text_model.embeddings.position_ids"
ONES = torch.ones(2)
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def prefixed(prefix):
    return lambda tensors: {f"{prefix}{key}": value for key, value in tensors.items()}


def position_ids(dtype, first=0):
    ids = torch.arange(first, first + 77).to(dtype)[None]
    return lambda tensors: prefixed("text_model.")(tensors) | {IDS: ids}


def bare(tensors):
    return {key.removeprefix("text_model."): value for key, value in tensors.items()}


def old_attention(tensors):
    renamed = {}
    for key, value in tensors.items():
        for new, old in OLD_ATTENTION.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[key] = value
    assert renamed.keys() != tensors.keys()
    return renamed


def encoders_table(tensors):
    return {"encoder.embed_tokens.weight" if key == "shared.weight" else key: value for key, value in tensors.items()}


def both_tables(tensors):
    return tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}


def another_shared_table(tensors):
    """Then transformers keeps the two apart, and the encoder reads its own."""
    return tensors | {
        "encoder.embed_tokens.weight": tensors["shared.weight"],
        "shared.weight": tensors["shared.weight"] * 0.5,
    }


def with_a_decoder(tensors):
    decoder = {key.replace("encoder.", "decoder."): value * 2 for key, value in tensors.items() if "encoder." in key}
    return tensors | decoder | {"lm_head.weight": tensors["shared.weight"] * 3}


FORMS = {
    "a bare CLIP encoder of transformers 4": ("tiny-flux", CLIP, prefixed("text_model.")),
    "one saved out of a whole CLIP model": (
        "tiny-sdxl",
        CLIP,
        lambda tensors: prefixed("text_model.")(tensors) | {"logit_scale": torch.ones(()), "vision_model.a": ONES},
    ),
    "position numbers, of transformers before 4.31": ("tiny-sdxl", CLIP, position_ids(torch.int64)),
    "position numbers in float16": ("tiny-flux", CLIP, position_ids(torch.float16)),
    "position numbers that were altered": ("tiny-flux", CLIP, position_ids(torch.int64, first=7)),
    "position numbers of another length": ("tiny-sd3", CLIP, lambda tensors: tensors | {IDS: ONES}),
    "a projecting CLIP encoder without the prefix": ("tiny-sd3", CLIP, bare),
    "T5 with the encoder's name of its word table": ("tiny-sd3", T5, encoders_table),
    "T5 with both names of it": ("tiny-sd3", T5, both_tables),
    "T5 with two word tables": ("tiny-sd3", T5, another_shared_table),
    "T5 with its decoder": ("tiny-sd3", T5, with_a_decoder),
    "T5 out of a larger model": ("tiny-sd3", T5, prefixed("transformer.")),
    "attention's names of diffusers before 0.17": ("tiny-sdxl", VAE, old_attention),
    "attention's older names in a 16-channel autoencoder": ("tiny-sd3", VAE, old_attention),
}


@pytest.mark.parametrize(("model", "file", "change"), FORMS.values(), ids=FORMS)
def test_a_file_in_an_older_form_is_the_same_model(cold, runtimes, run, job_for, tmp_path, model, file, change):
    folder = tmp_path / model
    shutil.copytree(MODELS / model, folder)
    tensors = safetensors.load_file(folder / file)
    safetensors.save_file({k: v.contiguous() for k, v in change(tensors).items()}, folder / file, {"format": "pt"})
    expected = run(runtimes(model), job_for(model, steps=1))
    result = run(cold, job_for(model, steps=1, path=str(folder), digest="sha256:older"))
    np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(expected.images[0]))


@pytest.mark.parametrize("prefix", ["module.", "text_model.module."])
def test_tensors_of_another_model_are_not_taken_for_the_encoders(cold, run, job_for, tmp_path, prefix):
    """transformers would draw the missing ones at random."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "tiny-sd3", folder)
    tensors = prefixed(prefix)(safetensors.load_file(folder / CLIP))
    safetensors.save_file(tensors, folder / CLIP, {"format": "pt"})
    with pytest.raises(EngineError, match=r"text_encoder/model.safetensors cannot be used: .* are missing") as caught:
        run(cold, job_for("tiny-sd3", steps=1, path=str(folder), digest="sha256:other"))
    assert caught.value.kind == "IntegrityError"
