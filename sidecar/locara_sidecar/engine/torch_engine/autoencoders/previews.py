"""Decode a step's predicted clean latent to a small picture: with a matrix, a tiny network or the full VAE.

Nothing here affects the running job: no random numbers, no scheduler, no module state.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from locara_sidecar.engine.previews import linear_preview, pictures, tiny_preview
from locara_sidecar.engine.torch_engine import strips
from locara_sidecar.engine.torch_engine.autoencoders.autoencoder import decoded, in_range, raw_latent
from locara_sidecar.engine.torch_engine.tensors import weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.folder.model_folder import Component, Progress


class Previews:
    """The preview decoders of one loaded model.

    :param folder: the model's folder; may contain ``linear_preview.json`` and ``tiny_vae``.
    :param vae: returns the model's current AutoencoderKL, whose weights may be loaded later.

    ``tiled``: whether the full autoencoder decodes in strips, as the job does.
    """

    def __init__(self, folder: Path, vae: Callable[[], Any]) -> None:
        self._folder = folder
        self._get_vae = vae
        self._factor = 2 ** (len(vae().config.block_out_channels) - 1)
        self._linear: linear_preview.LinearPreview | None = None
        self._tiny: Any = None
        self._tiny_sought = False
        self.tiled = False

    @property
    def _vae(self) -> Any:
        return self._get_vae()

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Prepare the decoder that ``mode`` needs, so that no step has to wait for it.

        :raises JobCancelled: while fitting; the next call starts over.
        """
        if mode in ("auto", "linear") and self._linear is None:
            self._linear = linear_preview.read(self._folder, self._vae.config.latent_channels) or self._fit(checkpoint)
        if mode == "tiny" and not self._tiny_sought:
            self._tiny = tiny_preview.load(
                self._folder,
                self._build_tiny,
                checkpoint,
                channels=self._vae.config.latent_channels,
                factor=self._factor,
                engine="torch",
            )
            self._tiny_sought = True

    def decode(self, x0: torch.Tensor, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode ``x0`` (1, C, h, w), a denoiser's latent. None if the model has no decoder for ``mode``."""
        with torch.inference_mode():
            match mode:
                case "linear":
                    return self._decode_linear(x0, max_side), "linear"
                case "tiny":
                    self.prepare("tiny", _go_on)
                    return None if self._tiny is None else (self._decode_with(self._tiny, x0, max_side), "tiny")
                case "full":
                    with strips.in_strips(self._vae) if self.tiled else contextlib.nullcontext():
                        return self._decode_with(self._vae, x0, max_side), "full"
                case _:
                    return None

    def _decode_linear(self, x0: torch.Tensor, max_side: int) -> PilImage:
        self.prepare("linear", _go_on)
        assert self._linear is not None
        latent = raw_latent(self._vae, x0)[0].float().cpu().numpy()
        return self._linear.picture(latent, self._factor, max_side)

    def _decode_with(self, vae: Any, x0: torch.Tensor, max_side: int) -> PilImage:
        pixels = decoded(vae, x0)[0]
        return pictures.small(pixels.float().permute(1, 2, 0).cpu().numpy(), max_side)

    def _fit(self, checkpoint: Callable[[], None]) -> linear_preview.LinearPreview:
        def encode(picture: linear_preview.Floats) -> linear_preview.Floats:
            vae = self._vae
            with torch.inference_mode(), in_range(vae):
                pixels = torch.tensor(picture[None], device=vae.device, dtype=vae.dtype)
                return vae.encode(pixels).latent_dist.mode()[0].float().cpu().numpy()

        return linear_preview.fit_to_encoder(encode, self._factor, checkpoint)

    def _build_tiny(self, component: Component, progress: Progress) -> Any:
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        tiny = weights.shell(AutoencoderTiny, component, self._vae.dtype)
        weights.fill(tiny, component, self._vae.dtype, str(self._vae.device), progress)
        return tiny


def _go_on() -> None:
    """Do nothing: a checkpoint that never stops."""
