"""FLUX.1: pooled text from CLIP, tokens from T5, FLUX's transformer, flow matching. Schnell, dev and Kontext.

Guidance is an input that the model was trained with, not a second evaluation, so a negative prompt has no effect.
Kontext takes the picture that it changes as further tokens, and starts from noise as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.mlx_engine import step_cache
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
from locara_sidecar.engine.mlx_engine.families import sampling
from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.engine.mlx_engine.texts.clip import ClipTextModel
from locara_sidecar.engine.mlx_engine.texts.t5 import T5Encoder
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import VaeConfig
    from locara_sidecar.ipc.frames import JobSpec

_PACKED = 4
"""Latent pixels per token."""


class Flux1(MlxFamily):
    """Schnell or dev, which edit a picture by starting from it."""

    row = FAMILIES["flux"]
    networks: ClassVar = {
        "CLIPTextModel": ClipTextModel,
        "T5EncoderModel": T5Encoder,
        "FluxTransformer2DModel": Flux,
    }

    @property
    def grid(self) -> int:
        return 2 * super().grid

    def trim(self, name: str, model: Any) -> None:
        if name == self.denoiser:
            model.split()

    def readers(self, max_sequence_length: int) -> list[Reader]:
        return [self.reader("CLIP-L", "tokenizer"), self.reader("T5", "tokenizer_2", max_sequence_length)]

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Encode a text to T5's tokens and CLIP's pooled vector."""
        pooled = self.module("text_encoder")(self.ids("tokenizer", text), self.pace()).pooled
        ids = self.ids("tokenizer_2", text, max_sequence_length)
        embedding = Embedding(self.module("text_encoder_2")(ids, self.pace()).astype(pooled.dtype), pooled)
        mx.eval(*embedding)
        return embedding

    def denoise(self, task: Denoising) -> mx.array:
        """Return the finished latent (1, h, w, C) of one image."""
        size, schedule = self._size(task.spec), self._schedule(task.spec)
        start = sampling.flow_match_start(self.vae, task, size, schedule, self.pace(), all_noise=False)
        return self._run(task, start, None)

    def _run(self, task: Denoising, start: sampling.StartLatent, reference: mx.array | None) -> mx.array:
        transformer: Flux = self.module("transformer")
        tokens, pooled = task.prompt
        sizes = [(a.shape[1], a.shape[2]) for a in (start.latent, reference) if a is not None]
        rotation = transformer.rotation(tokens.shape[1], *sizes)
        text = transformer.words(tokens)
        steering = sampling.made_ahead(
            lambda times: transformer.modulation(times, pooled, task.spec.guidance),
            start.schedule.timesteps,
            self._context.checkpoints,
        )

        answers = step_cache.Answers(task.spec.speed)

        def predict(latent: mx.array, step: int) -> mx.array:
            by = next(steering)

            def computed() -> mx.array:
                given = latent.astype(tokens.dtype)
                return transformer(given, text, by, rotation, reference, self.pace()).astype(mx.float32)

            return answers(step, computed)

        return sampling.run(start, predict, samplers.noised, task.on_step)

    def _schedule(self, spec: JobSpec) -> samplers.Schedule:
        height, width = self._size(spec)
        return samplers.flux_flow_match(self.sampler, spec.steps, height * width // _PACKED)

    def _size(self, spec: JobSpec) -> tuple[int, int]:
        """Return height and width in latent pixels."""
        vae: VaeConfig = self.config("vae")
        return spec.height // vae.factor, spec.width // vae.factor

    @property
    def _channels(self) -> int:
        return self.config("transformer").in_channels // _PACKED


class Flux1Kontext(Flux1):
    """Kontext, which edits a picture by following the prompt."""

    row = FAMILIES["flux-kontext"]

    def denoise(self, task: Denoising) -> mx.array:
        """Return the finished latent (1, h, w, C) of one image."""
        spec, source = task.spec, task.source
        reference: mx.array | None = None
        if source is not None:
            # the mode, not a sample: no random numbers are drawn
            pixels = sampling.pixels_of(source.image).astype(self.vae.dtype)
            posterior = self.vae.encode(pixels, self.pace(), tiled=spec.tiling == "on")
            reference = self.vae.from_raw(posterior.mean).astype(task.prompt.tokens.dtype)
            mx.eval(reference)
        schedule = self._schedule(spec)
        start = sampling.from_noise(task.noise, self._size(spec), self._channels, schedule)
        return self._run(task, start, reference)
