"""Z-Image-Turbo: a state of Qwen3, Z-Image's transformer, FLUX.1's autoencoder, flow matching.

It was distilled to run without guidance, and reads no negative prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageTransformer
from locara_sidecar.engine.mlx_engine.families import sampling
from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.engine.mlx_engine.texts.qwen3 import Qwen3Penultimate
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader

_PATCH = 4
"""Latent pixels in a token."""


class ZImage(MlxFamily):
    """A model of the family."""

    row = FAMILIES["z-image"]
    networks: ClassVar = {"Qwen3Model": Qwen3Penultimate, "ZImageTransformer2DModel": ZImageTransformer}

    @property
    def grid(self) -> int:
        return 2 * super().grid

    @property
    def largest_side(self) -> int:
        return min(self._components[self.denoiser].config.get("axes_lens", (0, 512, 512))[1:]) * self.grid

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [self.reader("Qwen3", "tokenizer", max_sequence_length)]

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """The text's own tokens, without padding."""
        tokenizer: Any = self.tokenizer("tokenizer")
        ids = mx.array([tokenizer.words(text, max_sequence_length)])
        (tokens,) = self.module("text_encoder")(ids, pace=self.pace())
        mx.eval(tokens)
        return Embedding(tokens, None)

    def denoise(self, task: Denoising) -> mx.array:
        """The finished latent (1, h, w, C) of one image."""
        spec, factor = task.spec, self.config("vae").factor
        transformer: ZImageTransformer = self.module("transformer")
        size = spec.height // factor, spec.width // factor
        schedule = samplers.flux_flow_match(self.sampler, spec.steps, size[0] * size[1] // _PATCH)
        start = sampling.flow_match_start(self.vae, task, size, schedule, self.pace(), all_noise=False)
        tokens = task.prompt.tokens
        places = transformer.places(tokens.shape[1], *size)
        text = transformer.refined(tokens, places, self.pace())
        steering = sampling.made_ahead(transformer.modulation, start.schedule.timesteps, self._context.checkpoints)

        def predict(latent: mx.array, step: int) -> mx.array:
            del step
            given = latent.astype(self._dtype(self.denoiser))
            return transformer(given, text, next(steering), places, self.pace()).astype(mx.float32)

        return sampling.run(start, predict, samplers.noised, task.on_step)
