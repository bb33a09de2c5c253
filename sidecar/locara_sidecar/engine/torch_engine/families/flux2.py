"""FLUX.2 [klein] with diffusers' own pipeline: from text alone, or from text and references.

Three states of Qwen3 side by side are the tokens. The model was distilled to run without guidance; the pipeline's own
default is 4. Inside the loop a latent is packed, 2 x 2 of the autoencoder's to a token, and scaled by statistics that
the autoencoder has among its weights; it leaves the loop as the decoder takes it, (1, C, h, w).

References follow the noise as further tokens, each at its own place on the first axis; they are encoded without
sampling. There is no strength and no mask.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.drawing.source import on_grid
from locara_sidecar.engine.torch_engine import narrow
from locara_sidecar.engine.torch_engine.autoencoders import autoencoder
from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily, Pipelines
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from torch import nn

    from locara_sidecar.engine.drawing.family import Denoising


class Flux2(DiffusersFamily):
    """A [klein] model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["flux2"]
    networks = (Qwen3Model, Flux2Transformer2DModel, AutoencoderKLFlux2)
    stand_ins: ClassVar = {"Qwen3ForCausalLM": "Qwen3Model"}  # the class without the output layer that predicts words
    pipelines = Pipelines(Flux2KleinPipeline, Flux2KleinPipeline, Flux2KleinPipeline)

    @property
    def grid(self) -> int:
        return 2 * super().grid

    def pipeline(self, cls: Any) -> Any:
        pipe = super().pipeline(cls)
        # source.py has checked the original pictures; after scaling and cropping, an allowed one may be too long
        pipe.image_processor.check_image_input = _as_it_is
        return pipe

    def _fit(self, name: str, module: Any) -> None:
        if name == self.denoiser and self._context.dtype == torch.float16:
            fit_into_float16(module)

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        tokens, _ = self.pipeline(self.pipelines.text).encode_prompt(
            prompt=text, max_sequence_length=max_sequence_length, text_encoder_out_layers=self.row.taps
        )
        return Embedding(tokens.float() if self._context.dtype == torch.float16 else tokens, None)

    def denoise(self, task: Denoising) -> torch.Tensor:
        spec, source = task.spec, task.source
        vae = self.module(self.decoder)
        pictures = None if source is None else [on_grid(picture, self.grid) for picture in source.references]
        rows, columns = spec.height // self.grid, spec.width // self.grid

        def on_step(step: int, steps: int, x0: torch.Tensor) -> None:
            task.on_step(step, steps, raw(vae, x0.transpose(1, 2).reshape(1, -1, rows, columns)))

        with autoencoder.in_range(vae):
            return self.sample(
                self.pipelines.text,
                replace(task, on_step=on_step),
                image=pictures,
                prompt_embeds=task.prompt.tokens,
                height=spec.height,
                width=spec.width,
                guidance_scale=1.0,
                max_sequence_length=spec.model.max_sequence_length,
            )


def _as_it_is(picture: Any) -> Any:
    return picture


def fit_into_float16(transformer: Any) -> None:
    """Let the transformer compute in float16 without leaving its range.

    diffusers clips sums that leave it. Here they are kept in float32, from the layers that embed picture and text on,
    and each block reads them in float16. The values that a layer adds to them are computed as a 64th: the layer's input
    is divided by 64, or in a feed-forward the values that are multiplied by the gates.
    """
    dtype = transformer.dtype
    for layer in (
        transformer.double_stream_modulation_img,
        transformer.double_stream_modulation_txt,
        transformer.single_stream_modulation,
        transformer.x_embedder,
    ):
        layer.register_forward_hook(narrow.widened)
    _as_a_part(transformer.context_embedder, dtype)
    for block in transformer.transformer_blocks:
        block.attn.register_forward_pre_hook(partial(_narrowed, dtype), with_kwargs=True)
        for layer in (block.attn.to_out[0], block.attn.to_add_out):
            _as_a_part(layer, dtype)
        for feed_forward in (block.ff, block.ff_context):
            feed_forward.register_forward_pre_hook(partial(_narrowed, dtype), with_kwargs=True)
            feed_forward.linear_in.register_forward_hook(partial(_smaller_values, None))
            feed_forward.linear_out.register_forward_hook(_in_full)
    for block in transformer.single_transformer_blocks:
        attention = block.attn
        attention.register_forward_pre_hook(partial(_narrowed, dtype), with_kwargs=True)
        attention.to_qkv_mlp_proj.register_forward_hook(partial(_smaller_values, attention.mlp_hidden_dim))
        attention.to_out.register_forward_pre_hook(partial(_smaller_heads, attention.inner_dim))
        attention.to_out.register_forward_hook(_in_full)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        layer.register_forward_pre_hook(narrow.as_the_weights)


def _as_a_part(layer: nn.Module, dtype: torch.dtype) -> None:
    layer.register_forward_pre_hook(lambda _, args: ((args[0].float() / narrow.LESS).to(dtype),))
    layer.register_forward_hook(_in_full)


def _in_full(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    del layer, args
    return output.float() * narrow.LESS


def _narrowed(dtype: torch.dtype, layer: nn.Module, args: Any, kwargs: Any) -> Any:
    del layer
    states = ("hidden_states", "encoder_hidden_states")
    given = {name: value.to(dtype) if name in states else value for name, value in kwargs.items()}
    return tuple(value.to(dtype) for value in args), given


def _smaller_values(count: int | None, layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Divide the last ``count`` numbers, or half of them: the values that are multiplied by the gates."""
    del layer, args
    output[..., -(count or output.shape[-1] // 2) :] /= narrow.LESS
    return output


def _smaller_heads(count: int, layer: nn.Module, args: Any) -> Any:
    """Divide the first ``count`` numbers: attention's output, next to a feed-forward's."""
    del layer
    args[0][..., :count] /= narrow.LESS
    return args


def raw(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Convert a packed latent (1, 4 * C, h / 2, w / 2) to the decoder's (1, C, h, w), as the pipeline does."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latent)
    deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(latent)
    batch, channels, height, width = latent.shape
    patches = (latent * deviation + mean).reshape(batch, channels // 4, 2, 2, height, width)
    return patches.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)
