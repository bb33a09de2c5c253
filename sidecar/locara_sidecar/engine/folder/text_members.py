"""The members of text encoders' configurations; ``config_members.py`` explains the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_sidecar.engine.folder.member_rules import Rule, each, either, null, number, off, one_of, switch, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

_WIDTH = whole(1, 1 << 16)
_LAYERS = whole(1, 1024)
_EPSILON = number(1e-12, 1)

TRANSFORMERS = frozenset(
    {
        "_name_or_path", "_commit_hash", "_attn_implementation_autoset", "architectures", "model_type",
        "transformers_version", "torch_dtype", "dtype", "return_dict", "output_hidden_states", "output_attentions",
        "use_cache", "torchscript", "use_bfloat16", "tf_legacy_loss", "id2label", "label2id", "num_labels",
        "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix", "bos_token_id",
        "pad_token_id", "sep_token_id", "decoder_start_token_id", "is_encoder_decoder", "is_decoder",
        "add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder", "chunk_size_feed_forward",
        "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
        "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
        "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
        "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
        "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
        "gradient_checkpointing", "initializer_factor", "initializer_range", "attention_dropout", "dropout",
        "dropout_rate", "classifier_dropout",
    }
)  # fmt: skip
"""Members about a file's origin, its training, or generating text, which encoders do not do."""

ACTIVATIONS = (
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_10",
    "quick_gelu", "silu", "swish", "mish", "relu", "relu2", "relu6", "leaky_relu", "hardswish", "sigmoid", "tanh",
    "linear",
)  # fmt: skip
"""transformers' activations without weights that both engines support."""


def _activation(value: Any) -> str:
    if value not in ACTIVATIONS:
        raise ValueError("the name of an activation, as 'gelu' or 'quick_gelu'")
    return value


def _feed_forward(value: Any) -> str:
    if not isinstance(value, str) or value.removeprefix("gated-") not in ACTIVATIONS:
        raise ValueError("the name of an activation, as 'relu', or one behind 'gated-', as 'gated-gelu'")
    return value


CLIP: dict[str, Rule] = {
    "vocab_size": whole(2, 1 << 20),
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "projection_dim": _WIDTH,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _LAYERS,
    "max_position_embeddings": whole(4, 1 << 16),
    "hidden_act": _activation,
    "layer_norm_eps": _EPSILON,
    "eos_token_id": whole(0, 1 << 20),
    "pruned_heads": one_of({}),
    "tie_word_embeddings": switch,
}

T5: dict[str, Rule] = {
    "vocab_size": whole(2, 1 << 20),
    "d_model": _WIDTH,
    "d_kv": _WIDTH,
    "d_ff": _WIDTH,
    "num_layers": _LAYERS,
    "num_heads": _LAYERS,
    "relative_attention_num_buckets": whole(4, 1 << 16),
    "relative_attention_max_distance": whole(4, 1 << 20),
    "layer_norm_epsilon": _EPSILON,
    "feed_forward_proj": _feed_forward,
    "tie_word_embeddings": switch,
    "pruned_heads": one_of({}),
    "is_decoder": off,  # its attention would be causal
}


def _rope(value: Any) -> Any:
    """The current form of ``rope_theta``; only plain rotary embeddings are supported."""
    match value:
        case {"rope_type": "default", "rope_theta": int() | float() as base, **others} if not others:
            return {"rope_type": "default", "rope_theta": number(1, 1e9)(base)}
        case _:
            raise ValueError("an object with rope_type 'default' and a rope_theta")


QWEN3: dict[str, Rule] = {
    "vocab_size": whole(2, 1 << 20),
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _LAYERS,
    "num_key_value_heads": either(_LAYERS, null),
    "head_dim": whole(2, 4096),
    "max_position_embeddings": whole(4, 1 << 24),
    "hidden_act": _activation,
    "rms_norm_eps": _EPSILON,
    "attention_bias": switch,
    "rope_theta": number(1, 1e9),
    "rope_parameters": either(_rope, null),
    "rope_scaling": null,
    "use_sliding_window": off,
    "layer_types": either(each(one_of("full_attention"), 1024), null),
    "tie_word_embeddings": switch,
}
QWEN3_HARMLESS = frozenset({"eos_token_id", "max_window_layers", "sliding_window"})
"""The last two belong to the sliding window, which is off."""


def qwen3_repeated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The required values of Qwen3's members that only repeat others, if present."""
    today = config.get("rope_parameters")
    return {"rope_theta": today["rope_theta"]} if today else {}


T5_HARMLESS = frozenset({"dense_act_fn", "is_gated_act", "eos_token_id", "n_positions", "num_decoder_layers",
                          "output_past", "scale_decoder_outputs"})  # fmt: skip
"""The first two repeat ``feed_forward_proj``, and transformers uses them; the others belong to the decoder."""


def t5_repeated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The required values of T5's members that only repeat others, if present."""
    described = str(config.get("feed_forward_proj", "relu"))
    function = "gelu_new" if described == "gated-gelu" else described.removeprefix("gated-")
    return {"dense_act_fn": function, "is_gated_act": described.startswith("gated-")}
