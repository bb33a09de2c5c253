"""SDXL and models distilled from it: two CLIP encoders, the UNet, any of the solvers of ``schedules/solvers.py``.

The model's inputs include the picture's supposed size before and after cropping (Podell et al., 2023, arXiv:2307.01952,
section 2.2): here always the target size, uncropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.drawing.source import require_plain_latents
from locara_sidecar.engine.folder import model_folder, schedulers
from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
from locara_sidecar.engine.mlx_engine.families import sampling
from locara_sidecar.engine.mlx_engine.families.family import MlxFamily, channels_last
from locara_sidecar.engine.mlx_engine.schedules import samplers, solvers
from locara_sidecar.engine.mlx_engine.texts.clip import ClipTextModel, ClipTextModelWithProjection
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.family import Denoising
    from locara_sidecar.engine.drawing.prompts.truncation import Reader
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import VaeConfig
    from locara_sidecar.ipc.frames import JobSpec


class Sdxl(MlxFamily):
    """A model of the family."""

    row = FAMILIES["sdxl"]
    networks: ClassVar = {
        "CLIPTextModel": ClipTextModel,
        "CLIPTextModelWithProjection": ClipTextModelWithProjection,
        "UNet2DConditionModel": Unet,
    }

    def _sampler(self, described: dict[str, Any], name: str | None) -> schedulers.NoiseConfig:
        return schedulers.choose(described, described["_class_name"], name).config

    def require_source(self, source: Source) -> None:
        require_plain_latents(source, self.config("vae").latents_mean)

    def readers(self, max_sequence_length: int) -> list[Reader]:
        del max_sequence_length  # only T5 has one
        return [self.reader("CLIP-L", "tokenizer"), self.reader("CLIP-G", "tokenizer_2")]

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Encode a text to both CLIPs' tokens side by side, and the second one's pooled vector."""
        del max_sequence_length
        outputs: list[Any] = []
        for encoder, name in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
            outputs.append(self.module(encoder)(self.ids(name, text), self.pace()))
        first, second = outputs
        embedding = Embedding(mx.concatenate([first.penultimate, second.penultimate], axis=-1), second.pooled)
        mx.eval(*embedding)
        return embedding

    def denoise(self, task: Denoising) -> mx.array:
        """Return the finished latent (1, h, w, C) of one image."""
        spec = task.spec
        unet: Unet = self.module("unet")
        tokens, pooled = sampling.together(task.prompt, self._negative(task))
        solver = self._solver(task)
        start = self._start(task, solver)
        sizes = mx.array([[spec.height, spec.width, 0, 0, spec.height, spec.width]] * tokens.shape[0])
        steering = sampling.made_ahead(
            lambda times: unet.steering(times, tokens, pooled, sizes),
            start.schedule.timesteps,
            self._context.checkpoints,
        )

        def predict(latent: mx.array, step: int) -> mx.array:
            seen = solver.seen(latent, step)
            given = mx.broadcast_to(seen, (tokens.shape[0], *latent.shape[1:])).astype(tokens.dtype)
            return sampling.guided(unet(given, next(steering), self.pace()).astype(mx.float32), spec.guidance)

        return sampling.run(start, predict, solver.noised, task.on_step)

    def _negative(self, task: Denoising) -> Embedding | None:
        """Return the negative embedding for guidance. For an empty text it is zeros, if the model says so."""
        if task.negative is None or task.spec.negative_prompt:
            return task.negative
        index = model_folder.read_json(self._context.folder, "model_index.json")
        zeros = index.get("force_zeros_for_empty_prompt", True)
        return Embedding(*(mx.zeros_like(array) for array in task.prompt)) if zeros else task.negative

    def _solver(self, task: Denoising) -> solvers.Solver:
        """Return a solver of the remaining steps; those that add noise draw it from the job's stream."""
        spec, source = task.spec, task.source
        height, width = self._size(spec)
        shape = (1, self.config("unet").in_channels, height, width)
        solver = solvers.make(self.sampler, spec.steps, lambda: channels_last(task.noise.normal(shape)))
        if source is None:
            return solver
        assert source.strength is not None
        return solver.after(samplers.first_step(spec.steps, source.strength, whole=self.row.rounds_down))

    def _start(self, task: Denoising, solver: solvers.Solver) -> sampling.StartLatent:
        spec, source = task.spec, task.source
        if source is None:
            return sampling.from_noise(task.noise, self._size(spec), self.config("unet").in_channels, solver)
        start = sampling.from_picture(
            self.vae, source, task.noise, solver, solver.noised, self.pace(), tiled=spec.tiling == "on"
        )
        if source.mask is not None:  # diffusers also samples the masked picture, without using it
            task.noise.normal((1, start.latent.shape[3], *start.latent.shape[1:3]))
        return start

    def _size(self, spec: JobSpec) -> tuple[int, int]:
        """Return height and width in latent pixels."""
        vae: VaeConfig = self.config("vae")
        return spec.height // vae.factor, spec.width // vae.factor
