"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, MMDiT, flow matching (Esser et al., 2024, arXiv:2403.03206).

The third encoder may be absent; zeros for ``max_sequence_length`` tokens then replace its output, as in diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.mlx_engine import step_cache
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit, MmditConfig
from locara_sidecar.engine.mlx_engine.families import sampling
from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.engine.mlx_engine.texts.clip import ClipTextModelWithProjection
from locara_sidecar.engine.mlx_engine.texts.t5 import T5Encoder
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import VaeConfig


class Sd3(MlxFamily):
    """A model of the family."""

    row = FAMILIES["sd3"]
    networks: ClassVar = {
        "CLIPTextModelWithProjection": ClipTextModelWithProjection,
        "T5EncoderModel": T5Encoder,
        "SD3Transformer2DModel": Mmdit,
    }

    @property
    def largest_side(self) -> int:
        return self.config("transformer").pos_embed_max_size * self.grid

    @property
    def grid(self) -> int:
        config: MmditConfig = self.config("transformer")
        return config.patch_size * super().grid

    def trim(self, name: str, model: Any) -> None:
        if name == self.denoiser:
            vae: VaeConfig = self.config("vae")
            model.split()
            model.keep_positions(self._context.sides.maximum // (vae.factor * model.config.patch_size))

    def readers(self, max_sequence_length: int) -> list[Reader]:
        # the second tokenizer truncates where the first one does, whatever its own limit
        length = self.tokenizer("tokenizer").longest
        readers = [self.reader("CLIP-L", "tokenizer"), self.reader("CLIP-G", "tokenizer_2", length)]
        return readers + ([self.reader("T5", "tokenizer_3", max_sequence_length)] if self.has("text_encoder_3") else [])

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Encode a text: both CLIPs' tokens side by side, padded with zeros to T5's width, followed by T5's."""
        length = self.tokenizer("tokenizer").longest
        first = self._clip("text_encoder", "tokenizer", text, length)
        second = self._clip("text_encoder_2", "tokenizer_2", text, length)
        config: MmditConfig = self.config("transformer")
        clip = mx.concatenate([first.penultimate, second.penultimate], axis=-1)
        clip = mx.pad(clip, [(0, 0), (0, 0), (0, config.joint_attention_dim - clip.shape[-1])])
        pooled = mx.concatenate([first.pooled, second.pooled], axis=-1)
        if self.has("text_encoder_3"):
            ids = self.ids("tokenizer_3", text, max_sequence_length)
            t5 = self.module("text_encoder_3")(ids, self.pace()).astype(clip.dtype)
        else:
            t5 = mx.zeros((1, max_sequence_length, config.joint_attention_dim), dtype=clip.dtype)
        embedding = Embedding(mx.concatenate([clip, t5], axis=1), pooled)
        mx.eval(*embedding)
        return embedding

    def denoise(self, task: Denoising) -> mx.array:
        """Return the finished latent (1, h, w, C) of one image, in float32; see :class:`.Family`."""
        spec = task.spec
        transformer: Mmdit = self.module("transformer")
        factor, config = self.config("vae").factor, transformer.config
        size = spec.height // factor, spec.width // factor
        schedule = samplers.flow_match(self.sampler, spec.steps, size[0] * size[1] // config.patch_size**2)
        start = sampling.flow_match_start(self.vae, task, size, schedule, self.pace(), all_noise=True)
        tokens, pooled = sampling.together(task.prompt, task.negative)
        text = transformer.words(tokens)
        steering = sampling.made_ahead(
            lambda times: transformer.modulation(times, pooled), start.schedule.timesteps, self._context.checkpoints
        )

        answers = step_cache.Answers(spec.speed)

        def predict(latent: mx.array, step: int) -> mx.array:
            by = next(steering)

            def computed() -> mx.array:
                given = mx.broadcast_to(latent, (tokens.shape[0], *latent.shape[1:])).astype(tokens.dtype)
                return transformer(given, text, by, self.pace()).astype(mx.float32)

            return sampling.guided(answers(step, computed), spec.guidance)

        return sampling.run(start, predict, samplers.noised, task.on_step)

    def _clip(self, encoder: str, tokenizer: str, text: str, length: int) -> Any:
        return self.module(encoder)(self.ids(tokenizer, text, length), self.pace())
