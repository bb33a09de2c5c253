"""CLIP and T5 against transformers."""

import mlx.core as mx
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from locara_sidecar.engine.mlx_engine.texts import clip, t5
from support.parity import TOLERANCES, build, error, randomise, save

END = 98
TEXTS = [[97, 5, 6, 7, END, 99, 99, 99], [97, 1, 2, 3, 4, 5, 6, END], [97, END, 0, 0, 0, 0, 0, 0]]


def clip_config(**changes):
    values = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "projection_dim": 24, "max_position_embeddings": 8, "bos_token_id": 97, "eos_token_id": END, "pad_token_id": 1,
    }  # fmt: skip
    return CLIPTextConfig(**values | changes)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new", "mish"])
@pytest.mark.parametrize("projected", [True, False])
def test_clip_gives_what_transformers_gives(tmp_path, act, projected):
    theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(clip_config(hidden_act=act))
    model = randomise(theirs)
    ours = build(clip.ClipTextModelWithProjection if projected else clip.ClipTextModel, save(model, tmp_path, "clip"))
    with torch.no_grad():
        reference = model(torch.tensor(TEXTS), output_hidden_states=True)
    got = ours(mx.array(TEXTS))
    assert error(got.penultimate, reference.hidden_states[-2]) < TOLERANCES["text encoder"]
    assert (
        error(got.pooled, reference.text_embeds if projected else reference.pooler_output) < TOLERANCES["text encoder"]
    )


def test_clip_with_the_end_token_of_old_files_pools_at_the_largest_id(tmp_path):
    model = randomise(CLIPTextModelWithProjection(clip_config(eos_token_id=2, bos_token_id=0)))
    ours = build(clip.ClipTextModelWithProjection, save(model, tmp_path, "clip"))
    texts = [[97, 5, 2, 7, END, 3, 3, 3]]
    with torch.no_grad():
        reference = model(torch.tensor(texts))
    assert error(ours(mx.array(texts)).pooled, reference.text_embeds) < TOLERANCES["text encoder"]


@pytest.mark.parametrize(
    ("length", "feed_forward"),
    [(1, "gated-gelu"), (7, "gated-gelu"), (300, "gated-gelu"), (7, "relu"), (7, "gated-silu"), (7, "gelu")],
)
def test_t5_gives_what_transformers_gives_at_every_distance(tmp_path, length, feed_forward):
    config = T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, feed_forward_proj=feed_forward
    )
    model = randomise(T5EncoderModel(config))
    ours = build(t5.T5Encoder, save(model, tmp_path, "t5", shard="8KB"))
    ids = torch.randint(0, 100, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = model(ids).last_hidden_state
    assert error(ours(mx.array(ids.numpy())), reference) < TOLERANCES["text encoder"]


def test_t5_buckets_are_those_of_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    positions = torch.arange(600)
    theirs = T5Attention._relative_position_bucket(positions[None, :] - positions[:, None])
    ours = t5.relative_buckets(600, t5.T5Config(feed_forward_proj="gated-gelu"))
    assert (theirs.numpy() == ours).all()
