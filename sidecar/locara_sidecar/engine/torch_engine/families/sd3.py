"""Stable Diffusion 3 and 3.5 with diffusers' own pipeline: its loop, its arithmetic, its configuration.

Our part surrounds it: loading component by component, encoding one text at a time so that it can be cached, noise from
our stream, decoding as a separate phase. With equal noise the pixels are bit-identical to those of diffusers. The third
encoder (T5) may be absent; the pipeline then uses zeros for ``max_sequence_length`` tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_img2img import StableDiffusion3Img2ImgPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_inpaint import StableDiffusion3InpaintPipeline
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.t5.modeling_t5 import T5EncoderModel

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily, Pipelines
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    import torch

    from locara_sidecar.engine.drawing.family import Denoising


class Sd3(DiffusersFamily):
    """An SD3 model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["sd3"]
    networks = (CLIPTextModelWithProjection, T5EncoderModel, SD3Transformer2DModel)
    pipelines = Pipelines(StableDiffusion3Pipeline, StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline)

    @property
    def largest_side(self) -> int:
        return self.module(self.denoiser).config.pos_embed_max_size * self.grid

    @property
    def grid(self) -> int:
        return self.module(self.denoiser).config.patch_size * super().grid

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        tokens, _, pooled, _ = self.pipeline(StableDiffusion3Pipeline).encode_prompt(
            prompt=text,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length,
        )
        return Embedding(tokens, pooled)

    def denoise(self, task: Denoising) -> torch.Tensor:
        spec, prompt, negative = task.spec, task.prompt, task.negative
        cls, edit = self.way(spec, task.source)
        return self.sample(
            cls,
            task,
            prompt_embeds=prompt.tokens,
            pooled_prompt_embeds=prompt.pooled,
            negative_prompt_embeds=None if negative is None else negative.tokens,
            negative_pooled_prompt_embeds=None if negative is None else negative.pooled,
            height=spec.height,
            width=spec.width,
            guidance_scale=spec.guidance if negative is not None else 1.0,
            max_sequence_length=spec.model.max_sequence_length,
            **edit,
        )
