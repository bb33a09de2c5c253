"""SDXL and models distilled from it, with diffusers' own SDXL pipelines.

Two CLIP encoders side by side provide the tokens, the second one also the pooled embedding. Lightning's folder is SDXL
base's with the distilled UNet, and with the base's scheduler. It was distilled for Euler with *trailing* timesteps and
no guidance (see its model card), which its catalogue entry asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.drawing.source import require_plain_latents
from locara_sidecar.engine.folder import model_folder, schedulers
from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily, Pipelines
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.source import Source


class Sdxl(DiffusersFamily):
    """An SDXL model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["sdxl"]
    networks = (CLIPTextModel, CLIPTextModelWithProjection, UNet2DConditionModel)
    pipelines = Pipelines(StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline)
    scheduler_classes: ClassVar = {
        schedulers.EULER: EulerDiscreteScheduler,
        schedulers.ANCESTRAL: EulerAncestralDiscreteScheduler,
        schedulers.MULTISTEP: DPMSolverMultistepScheduler,
    }

    @classmethod
    def _scheduler_of(cls, described: dict[str, Any], name: str | None) -> Any:
        chosen = schedulers.choose(described, described["_class_name"], name)
        return cls.scheduler_classes[chosen.class_name].from_config(described, **chosen.changes)

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        del max_sequence_length  # CLIP has its own
        tokens, _, pooled, _ = self.pipeline(StableDiffusionXLPipeline).encode_prompt(
            prompt=text, do_classifier_free_guidance=False
        )
        return Embedding(tokens, pooled)

    def require_source(self, source: Source) -> None:
        require_plain_latents(source, self.module("vae").config.latents_mean)

    def denoise(self, task: Denoising) -> torch.Tensor:
        cls, arguments = self.way(task.spec, task.source)
        if cls is not StableDiffusionXLImg2ImgPipeline:  # that one uses the picture's size
            arguments |= {"height": task.spec.height, "width": task.spec.width}
        negative = self._negative(task)
        return self.sample(
            cls,
            task,
            prompt_embeds=task.prompt.tokens,
            pooled_prompt_embeds=task.prompt.pooled,
            negative_prompt_embeds=None if negative is None else negative.tokens,
            negative_pooled_prompt_embeds=None if negative is None else negative.pooled,
            guidance_scale=0.0 if negative is None else task.spec.guidance,
            **arguments,
        )

    def _negative(self, task: Denoising) -> Embedding | None:
        """Return the negative embedding for guidance. For an empty text it is zeros, if the model says so."""
        if task.negative is None or task.spec.negative_prompt:
            return task.negative
        index = model_folder.read_json(self._context.folder, "model_index.json")
        zeros = index.get("force_zeros_for_empty_prompt", True)
        return Embedding(*(torch.zeros_like(array) for array in task.prompt)) if zeros else task.negative

    def pipeline(self, cls: Any) -> Any:
        pipe = super().pipeline(cls)
        pipe.watermark = None  # diffusers adds one if a certain package is installed
        return pipe
