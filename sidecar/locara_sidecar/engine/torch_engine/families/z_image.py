"""Z-Image-Turbo with diffusers' own pipelines: text to image, image to image, inpainting.

It was distilled to run without guidance (the pipelines default to 5, and to 50 steps, which are the base model's). Its
blocks and its text encoder exceed the range of float16: see :func:`fit_into_float16`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image_img2img import ZImageImg2ImgPipeline
from diffusers.pipelines.z_image.pipeline_z_image_inpaint import ZImageInpaintPipeline
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.torch_engine import narrow
from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily, Pipelines
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising


class ZImage(DiffusersFamily):
    """A Z-Image model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["z-image"]
    networks = (Qwen3Model, ZImageTransformer2DModel)
    pipelines = Pipelines(ZImagePipeline, ZImageImg2ImgPipeline, ZImageInpaintPipeline)

    @property
    def grid(self) -> int:
        return 2 * super().grid

    @property
    def largest_side(self) -> int:
        return min(self.module(self.denoiser).config.axes_lens[1:]) * self.grid

    def _fit(self, name: str, module: Any) -> None:
        if self._context.dtype == torch.float16:
            if name == self.denoiser:
                fit_into_float16(module)
            if name == self.decoder:  # a source arrives in the type of the text's embedding
                module.encoder.register_forward_pre_hook(narrow.as_the_weights)

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        tokens, _ = self.pipeline(self.pipelines.text).encode_prompt(
            prompt=text, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
        wide = tokens[0].float() if self._context.dtype == torch.float16 else tokens[0]
        return Embedding(wide[None], None)

    def denoise(self, task: Denoising) -> torch.Tensor:
        cls, edit = self.way(task.spec, task.source)
        return self.sample(
            cls,
            task,
            prompt_embeds=[task.prompt.tokens[0]],
            height=task.spec.height,
            width=task.spec.width,
            guidance_scale=0.0,
            max_sequence_length=task.spec.model.max_sequence_length,
            **edit,
        )


def fit_into_float16(transformer: Any) -> None:
    """Let the transformer compute in float16 without leaving its range (65,504).

    In the feed-forward, gate times value reaches 3e5, and its output 1e6; other runtimes bound attention's output, too.
    So its input and the values are divided by 64, which the norms that follow cancel (their epsilons are divided, too,
    so the result is the same). The sum of all branches grows as
    well. It is kept in float32, from the two layers that embed picture and text on; the norms in each block bring its
    branches back to float16.
    """
    for block in (*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers):
        block.attention.to_out[0].register_forward_pre_hook(narrow.of_a_part)
        block.feed_forward.w3.register_forward_hook(narrow.a_part)
        for norm in (block.attention_norm2, block.ffn_norm2):
            norm.eps /= narrow.LESS**2
    for layer in (*transformer.all_x_embedder.values(), transformer.cap_embedder):
        layer.register_forward_hook(narrow.widened)
    for layer in transformer.all_final_layer.values():
        layer.linear.register_forward_pre_hook(narrow.as_the_weights)
