"""Qwen3 against transformers: every hidden state between its layers, and the effect of padding."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from locara_sidecar.engine.mlx_engine.texts import qwen3
from locara_sidecar.ipc.errors import EngineError
from support.parity import TOLERANCES, build, error, randomise, save

LAYERS = 4


class EveryState(qwen3.Qwen3):
    taps = tuple(range(LAYERS + 1))


def config(**changes):
    values = {
        "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }  # fmt: skip
    return Qwen3Config(**values | changes)


def ids_of(length, batch=2):
    return torch.randint(0, 90, (batch, length), generator=torch.Generator().manual_seed(1))


def states(model, ids, mask=None):
    with torch.no_grad():
        return model(ids, attention_mask=mask, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("length", [1, 7, 300])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4, "head_dim": 8},
        {"attention_bias": True, "hidden_act": "gelu"},
        {
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5.0},
        },
    ],
)
def test_every_state_is_the_one_of_transformers(tmp_path, changes, length):
    model = randomise(Qwen3Model(config(**changes)))
    ours = build(EveryState, save(model, tmp_path, "qwen", shard="8KB"))
    ids = ids_of(length)
    reference, got = states(model, ids), ours(mx.array(ids.numpy()))
    assert len(reference) == len(got) == LAYERS + 1
    for mine, theirs in zip(got, reference, strict=True):
        assert error(mine, theirs) < TOLERANCES["text encoder"]


def test_padding_is_seen_by_no_word_and_is_itself_what_transformers_makes_of_it(tmp_path):
    model = randomise(Qwen3Model(config()))
    ours = build(EveryState, save(model, tmp_path, "qwen"))
    ids = ids_of(12, batch=1)
    mask = torch.ones_like(ids)
    mask[:, 7:] = 0
    for mine, theirs in zip(ours(mx.array(ids.numpy()), 7), states(model, ids, mask), strict=True):
        assert error(mine, theirs) < TOLERANCES["text encoder"]
    alone = ours(mx.array(ids[:, :7].numpy()))
    for mine, whole in zip(alone, ours(mx.array(ids.numpy()), 7), strict=True):
        assert error(mine, np.array(whole)[:, :7]) < TOLERANCES["text encoder"]


def test_layers_above_the_highest_state_that_is_wanted_are_not_there(tmp_path):
    model = randomise(Qwen3ForCausalLM(config(tie_word_embeddings=True)))  # names begin with "model."
    component = save(model, tmp_path, "qwen")
    ours = build(qwen3.Qwen3Penultimate, component)
    assert len(ours.layers) == LAYERS - 1
    assert "norm" not in ours
    ids = ids_of(9)
    (got,) = ours(mx.array(ids.numpy()))
    assert error(got, states(model, ids)[-2]) < TOLERANCES["text encoder"]


def test_older_configurations_have_the_base_of_frequencies_by_itself(tmp_path):
    model = randomise(Qwen3Model(config()))
    component = save(model, tmp_path, "qwen")
    assert "rope_parameters" in component.config
    older = {key: value for key, value in component.config.items() if key != "rope_parameters"}
    component.config.clear()
    component.config.update(older | {"rope_theta": 1_000_000.0})
    json.dumps(component.config)
    ids = ids_of(40)
    assert error(build(EveryState, component)(mx.array(ids.numpy()))[-1], states(model, ids)[-1]) < 1e-4


def test_a_model_of_fewer_layers_than_are_wanted_is_refused(tmp_path):
    component = save(randomise(Qwen3Model(config())), tmp_path, "qwen")
    with pytest.raises(EngineError) as caught:
        build(qwen3.Qwen3Thirds, component)
    assert caught.value.kind == "IntegrityError"
