"""FLUX.1 schnell and dev with diffusers' own pipelines.

CLIP provides the pooled embedding, T5 the tokens. dev takes guidance as an embedding, schnell takes none, and neither
has a negative prompt. Inside the loop latents are packed (each 2 × 2 patch is a token, (1, h/2 * w/2, 4 * C)); they
leave it here as (1, C, h, w).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux_img2img import FluxImg2ImgPipeline
from diffusers.pipelines.flux.pipeline_flux_inpaint import FluxInpaintPipeline
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.t5.modeling_t5 import T5EncoderModel

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily, Pipelines
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    import torch

    from locara_sidecar.engine.drawing.family import Denoising


class Flux(DiffusersFamily):
    """A FLUX.1 model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["flux"]
    networks = (CLIPTextModel, T5EncoderModel, FluxTransformer2DModel)
    pipelines = Pipelines(FluxPipeline, FluxImg2ImgPipeline, FluxInpaintPipeline)

    @property
    def grid(self) -> int:
        return 2 * super().grid

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        tokens, pooled, _ = self.pipeline(self.pipelines.text).encode_prompt(
            prompt=text, prompt_2=None, max_sequence_length=max_sequence_length
        )
        return Embedding(tokens, pooled)

    def denoise(self, task: Denoising) -> torch.Tensor:
        spec = task.spec
        patch = 2 ** len(self.module("vae").config.block_out_channels)
        rows, columns = spec.height // patch, spec.width // patch

        def on_step(step: int, steps: int, x0: torch.Tensor) -> None:
            task.on_step(step, steps, unpacked(x0, rows, columns))

        cls, edit = self.way(spec, task.source)
        packed = self.sample(
            cls,
            replace(task, on_step=on_step),
            prompt_embeds=task.prompt.tokens,
            pooled_prompt_embeds=task.prompt.pooled,
            height=spec.height,
            width=spec.width,
            guidance_scale=spec.guidance,
            max_sequence_length=spec.model.max_sequence_length,
            **edit,
        )
        return unpacked(packed, rows, columns)


def unpacked(packed: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Unpack tokens (1, rows * columns, 4 * C) to a latent (1, C, 2 * rows, 2 * columns): a token is a 2 × 2 patch."""
    patches = packed.reshape(1, rows, columns, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(1, -1, 2 * rows, 2 * columns)
