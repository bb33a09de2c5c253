"""SDXL with the Lightning weights: two CLIP encoders, the UNet, Euler's method from trailing timesteps.

The model is told the sizes that its picture is said to have had before and after cropping (Podell et al., 2023,
arXiv:2307.01952, section 2.2): the size wanted, uncropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.family import Embedding
from locara_sidecar.engine.mlx_engine import samplers, sampling
from locara_sidecar.engine.mlx_engine.clip import ClipTextModel, ClipTextModelWithProjection
from locara_sidecar.engine.mlx_engine.family import CLIP_TOKENIZERS, MlxFamily, Network
from locara_sidecar.engine.mlx_engine.unet import Unet
from locara_sidecar.engine.mlx_engine.vae import Vae, VaeConfig

if TYPE_CHECKING:
    from locara_sidecar.engine.family import Denoising
    from locara_sidecar.engine.truncation import Reader


class Sdxl(MlxFamily):
    """A model of the family."""

    index_class = "StableDiffusionXLPipeline"
    networks: ClassVar = {
        "text_encoder": Network("CLIPTextModel", ClipTextModel, encoder=True),
        "text_encoder_2": Network("CLIPTextModelWithProjection", ClipTextModelWithProjection, encoder=True),
        "unet": Network("UNet2DConditionModel", Unet),
        "vae": Network("AutoencoderKL", Vae),
    }
    tokenizers: ClassVar = {"tokenizer": CLIP_TOKENIZERS, "tokenizer_2": CLIP_TOKENIZERS}
    scheduler_class = "EulerDiscreteScheduler"
    sampler_config = samplers.EulerConfig
    schedulers = frozenset({"euler-trailing"})
    denoiser = "unet"

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [self.reader("CLIP-L", "tokenizer"), self.reader("CLIP-G", "tokenizer_2")]

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Both CLIPs' tokens side by side, and the second one's pooled vector."""
        outputs: list[Any] = []
        for encoder, name in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
            tokenizer = self.tokenizer(name)
            outputs.append(self.module(encoder)(mx.array([tokenizer.ids(text, tokenizer.longest)]), self.pace()))
        first, second = outputs
        embedding = Embedding(mx.concatenate([first.penultimate, second.penultimate], axis=-1), second.pooled)
        mx.eval(*embedding)
        return embedding

    def denoise(self, task: Denoising) -> mx.array:
        """The finished latent (1, h, w, C) of one image."""
        spec = task.spec
        unet: Unet = self.module("unet")
        tokens, pooled = sampling.together(task.prompt, task.negative)
        start = self._start(task)
        sizes = mx.array([[spec.height, spec.width, 0, 0, spec.height, spec.width]] * tokens.shape[0])
        steering = sampling.made_ahead(
            lambda times: unet.steering(times, tokens, pooled, sizes),
            start.schedule.timesteps,
            self._context.checkpoints,
        )

        def predict(latent: mx.array, step: int) -> mx.array:
            scaled = latent * samplers.model_scale(float(start.schedule.sigmas[step]))
            given = mx.broadcast_to(scaled, (tokens.shape[0], *latent.shape[1:])).astype(tokens.dtype)
            return sampling.guided(unet(given, next(steering), self.pace()).astype(mx.float32), spec.guidance)

        return sampling.run(start, predict, _noised, task.on_step)

    def _start(self, task: Denoising) -> sampling.Start:
        spec, source = task.spec, task.source
        schedule = samplers.euler_trailing(self.sampler, spec.steps)
        if source is None:
            vae: VaeConfig = self.config("vae")
            size = (spec.height // vae.factor, spec.width // vae.factor)
            return sampling.from_noise(task.noise, size, self.config("unet").in_channels, schedule, _noised)
        assert source.strength is not None
        left = schedule.after(samplers.first_step(spec.steps, source.strength, whole=True))
        return sampling.from_picture(
            self.vae, source, task.noise, left, _noised, self.pace(), tiled=spec.tiling == "on"
        )


def _noised(clean: mx.array, noise: mx.array, sigma: float) -> mx.array:
    return clean + sigma * noise
