"""Decode a step's predicted clean latent to a small picture: with a matrix, a tiny network or the full autoencoder.

Nothing here affects the running job: no random numbers, no state of the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.mlx_engine.autoencoders.tiny_vae import TinyVae
from locara_sidecar.engine.mlx_engine.tensors import weights
from locara_sidecar.engine.previews import linear_preview, pictures, tiny_preview

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.folder.model_folder import Component, Progress
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
    from locara_sidecar.engine.mlx_engine.pace import Checkpoints


class Previews:
    """The preview decoders of one model.

    :param folder: the model's folder; may contain ``linear_preview.json`` and ``tiny_vae``.
    :param vae: returns the model's own autoencoder, loaded.

    ``tiled``: whether the full autoencoder decodes in strips, as the job does.
    """

    def __init__(self, folder: Path, vae: Callable[[], Vae], checkpoints: Checkpoints) -> None:
        self._folder = folder
        self._vae = vae
        self._checkpoints = checkpoints
        self._linear: linear_preview.LinearPreview | None = None
        self._tiny: TinyVae | None = None
        self._tiny_sought = False
        self.tiled = False

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Prepare the decoder that ``mode`` needs, so that no step has to wait for it.

        :raises JobCancelled: while fitting; the next call starts over.
        """
        if mode in ("auto", "linear") and self._linear is None:
            vae = self._vae()
            self._linear = linear_preview.read(
                self._folder, vae.config.latent_channels
            ) or linear_preview.fit_to_encoder(self._encode, vae.config.factor, checkpoint)
        if mode == "tiny" and not self._tiny_sought:
            config = self._vae().config
            self._tiny = tiny_preview.load(
                self._folder,
                self._build_tiny,
                checkpoint,
                channels=config.latent_channels,
                factor=config.factor,
                engine="mlx",
            )
            self._tiny_sought = True

    def decode(self, x0: mx.array, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode ``x0`` (1, h, w, C), a denoiser's latent. None if the model has no decoder for ``mode``."""
        vae = self._vae()
        match mode:
            case "linear":
                self.prepare("linear", self._checkpoints.checkpoint)
                assert self._linear is not None
                latent = np.array(vae.to_raw(x0)[0].astype(mx.float32)).transpose(2, 0, 1)
                return self._linear.picture(latent, vae.config.factor, max_side), "linear"
            case "tiny":
                self.prepare("tiny", self._checkpoints.checkpoint)
                if self._tiny is None:
                    return None
                return _small(self._tiny.decode(x0, self._checkpoints.pace()), max_side), "tiny"
            case "full":
                raw = vae.to_raw(x0).astype(vae.dtype)
                pixels = vae.decode(raw, self._checkpoints.pace(), tiled=self.tiled)
                return _small(pixels, max_side), "full"
            case _:
                return None

    def _build_tiny(self, component: Component, progress: Progress) -> TinyVae:
        return weights.build(TinyVae, component, self._vae().dtype, progress)

    def _encode(self, picture: linear_preview.Floats) -> linear_preview.Floats:
        """Encode a picture (3, h, w) to its raw latent (C, h, w)."""
        vae = self._vae()
        pixels = mx.array(picture.transpose(1, 2, 0)[None]).astype(vae.dtype)
        mean = vae.encode(pixels, self._checkpoints.pace()).mean[0]
        return np.array(mean.astype(mx.float32)).transpose(2, 0, 1)


def _small(pixels: mx.array, max_side: int) -> PilImage:
    return pictures.small(np.array(pixels[0].astype(mx.float32)), max_side)
