"""SDXL Lightning over diffusers' own SDXL pipelines.

The folder is SDXL base's with the distilled UNet in it, and the base's scheduler: what Lightning was distilled for is
Euler with *trailing* timesteps and no guidance (its model card), so the scheduler is switched here and the UNet is
called once a step. Two CLIP encoders side by side give the tokens, the second one the pooled embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from locara_sidecar.engine.family import Embedding
from locara_sidecar.engine.torch_engine.diffusers_family import DiffusersFamily, Network, Pipelines
from locara_sidecar.engine.torch_engine.readers import CLIP_G, CLIP_L

if TYPE_CHECKING:
    import torch

    from locara_sidecar.engine.family import Denoising


class Sdxl(DiffusersFamily):
    """An SDXL Lightning model; :class:`~locara_sidecar.engine.family.Family` tells what each verb does."""

    index_class = "StableDiffusionXLPipeline"
    networks: ClassVar = {
        "text_encoder": Network(CLIPTextModel, encoder=True),
        "text_encoder_2": Network(CLIPTextModelWithProjection, encoder=True),
        "unet": Network(UNet2DConditionModel),
        "vae": Network(AutoencoderKL),
    }
    tokenizers: ClassVar = {"tokenizer": CLIP_L, "tokenizer_2": CLIP_G}
    pipelines = Pipelines(StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline)
    scheduler_class = EulerDiscreteScheduler
    scheduler_options: ClassVar = {"timestep_spacing": "trailing"}
    schedulers = frozenset({"euler-trailing"})
    denoiser = "unet"

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        del max_sequence_length  # CLIP's own
        tokens, _, pooled, _ = self.pipeline(StableDiffusionXLPipeline).encode_prompt(
            prompt=text, do_classifier_free_guidance=False
        )
        return Embedding(tokens, pooled)

    def least_strength(self, steps: int) -> float:
        return min(1.0, math.nextafter(1.0 / steps, 2.0))  # these pipelines round the steps down

    def denoise(self, task: Denoising) -> torch.Tensor:
        cls, arguments = self.way(task.spec, task.source)
        if cls is not StableDiffusionXLImg2ImgPipeline:  # that one takes the picture's
            arguments |= {"height": task.spec.height, "width": task.spec.width}
        return self.sample(
            cls,
            task,
            prompt_embeds=task.prompt.tokens,
            pooled_prompt_embeds=task.prompt.pooled,
            guidance_scale=0.0,
            **arguments,
        )

    def pipeline(self, cls: Any) -> Any:
        pipe = super().pipeline(cls)
        pipe.watermark = None  # diffusers' default where a certain package is installed
        return pipe
