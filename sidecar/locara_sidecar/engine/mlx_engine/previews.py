"""Small pictures of a step's predicted clean latent, by two decoders: a matrix, or the full autoencoder.

Nothing here touches the running job: no random numbers, no state of the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from locara_sidecar.engine import linear_preview, pictures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from locara_protocol.messages import PreviewDecoder
    from locara_sidecar.engine.mlx_engine.pace import Checkpoints
    from locara_sidecar.engine.mlx_engine.vae import Vae


class Previews:
    """The preview decoders of one model.

    :param folder: the model's; may hold ``linear_preview.json``.
    :param vae: gives the model's own autoencoder, loaded.
    """

    def __init__(self, folder: Path, vae: Callable[[], Vae], checkpoints: Checkpoints) -> None:
        self._folder = folder
        self._vae = vae
        self._checkpoints = checkpoints
        self._linear: linear_preview.LinearPreview | None = None

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Have the decoder ready that ``mode`` needs, so that no step waits for it.

        :raises JobCancelled: while fitting; the next call starts again.
        """
        if mode in ("auto", "linear") and self._linear is None:
            vae = self._vae()
            self._linear = linear_preview.read(
                self._folder, vae.config.latent_channels
            ) or linear_preview.fit_to_encoder(self._encode, vae.config.factor, checkpoint)

    def decode(self, x0: mx.array, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """``x0`` (1, h, w, C) as the transformer's latent; None when the model has no decoder for ``mode``."""
        vae = self._vae()
        raw = vae.to_raw(x0)
        match mode:
            case "linear":
                self.prepare("linear", self._checkpoints.checkpoint)
                assert self._linear is not None
                latent = np.array(raw[0].astype(mx.float32)).transpose(2, 0, 1)
                return self._linear.picture(latent, vae.config.factor, max_side), "linear"
            case "full":
                pixels = vae.decode(raw.astype(vae.dtype), self._checkpoints.pace())
                return pictures.small(np.array(pixels[0].astype(mx.float32)), max_side), "full"
            case _:
                return None

    def _encode(self, picture: linear_preview.Floats) -> linear_preview.Floats:
        """A picture (3, h, w) to its raw latent (C, h, w)."""
        vae = self._vae()
        pixels = mx.array(picture.transpose(1, 2, 0)[None]).astype(vae.dtype)
        mean = vae.encode(pixels, self._checkpoints.pace()).mean[0]
        return np.array(mean.astype(mx.float32)).transpose(2, 0, 1)
