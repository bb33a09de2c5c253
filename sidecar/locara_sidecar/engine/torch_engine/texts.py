"""Text encoders that are language models: only the layers that a family needs are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

if TYPE_CHECKING:
    import torch

    from locara_sidecar.machine.supported import Family


class _PassedOn(Qwen3DecoderLayer):
    """Stands for all layers above the last one that is read. transformers normalizes the output of the very last layer,
    so the last one that is read must not be the last.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)  # without weights
        self.gradient_checkpointing = False
        self.attention_type = "full_attention"  # transformers 5.0 requests this from each layer

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        del args, kwargs
        return hidden_states


def keep_read_layers(encoder: Any, family: Family) -> None:
    """Drop the layers of a shell that no state in ``family.taps`` depends on; the states keep their indices."""
    layers = encoder.layers
    count = family.layers_read(len(layers))
    if count < len(layers):
        passed_on = [_PassedOn() for _ in range(len(layers) - count)]
        encoder.layers = nn.ModuleList([*layers[:count], *passed_on])
