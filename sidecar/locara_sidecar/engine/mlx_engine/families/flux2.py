"""FLUX.2 [klein]: three states of Qwen3, FLUX.2's transformer and autoencoder, flow matching.

It was distilled to run without guidance, and reads no negative prompt. References follow the picture as further tokens,
each at its own place; there is no strength and no mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.drawing.source import on_grid
from locara_sidecar.engine.mlx_engine.autoencoders.flux2_vae import Flux2Vae
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer
from locara_sidecar.engine.mlx_engine.families import sampling
from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.engine.mlx_engine.texts.qwen3 import Qwen3Thirds
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader


class Flux2(MlxFamily):
    """A [klein] model."""

    row = FAMILIES["flux2"]
    networks: ClassVar = {
        "Qwen3ForCausalLM": Qwen3Thirds,
        "Flux2Transformer2DModel": Flux2Transformer,
        "AutoencoderKLFlux2": Flux2Vae,
    }

    @property
    def grid(self) -> int:
        return 2 * super().grid

    def trim(self, name: str, model: Any) -> None:
        if name == self.denoiser:
            model.split()

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [self.reader("Qwen3", "tokenizer", max_sequence_length)]

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Encode a text and the padding after it, which the transformer was trained to see."""
        tokenizer: Any = self.tokenizer("tokenizer")
        words = len(tokenizer.words(text, max_sequence_length))
        ids = self.ids("tokenizer", text, max_sequence_length)
        tokens = mx.concatenate(self.module("text_encoder")(ids, words, self.pace()), axis=-1)
        mx.eval(tokens)
        return Embedding(tokens, None)

    def denoise(self, task: Denoising) -> mx.array:
        """Return the finished latent (1, h, w, C) of one image, raw."""
        vae: Flux2Vae = self.module(self.decoder)
        transformer: Flux2Transformer = self.module(self.denoiser)
        size = task.spec.height // self.grid, task.spec.width // self.grid
        schedule = samplers.flux2_flow_match(self.sampler, task.spec.steps, size[0] * size[1])
        start = sampling.from_noise(task.noise, size, transformer.config.in_channels, schedule)
        seen = self._references(task)
        sizes = [(one.shape[1], one.shape[2]) for one in seen]
        rotation = transformer.rotation(task.prompt.tokens.shape[1], size, *sizes)
        text, pictures = transformer.words(task.prompt.tokens), transformer.pictures(seen)
        steering = sampling.made_ahead(transformer.modulation, start.schedule.timesteps, self._context.checkpoints)

        def predict(latent: mx.array, step: int) -> mx.array:
            del step
            given = latent.astype(self._dtype(self.denoiser))
            return transformer(given, text, next(steering), rotation, pictures, self.pace()).astype(mx.float32)

        def on_step(step: int, steps: int, x0: mx.array) -> None:
            task.on_step(step, steps, vae.unpacked(x0))

        return vae.unpacked(sampling.run(start, predict, samplers.noised, on_step))

    def _references(self, task: Denoising) -> list[mx.array]:
        """Encode the references one by one, to the mode of each distribution, so that no random numbers are drawn."""
        vae: Flux2Vae = self.module(self.decoder)
        seen: list[mx.array] = []
        for picture in () if task.source is None else task.source.references:
            pixels = sampling.pixels_of(on_grid(picture, self.grid)).astype(vae.dtype)
            seen.append(vae.packed(vae.encode(pixels, self.pace(), tiled=task.spec.tiling == "on").mean))
            mx.eval(seen[-1])
        return seen
