"""Small pictures of a step's predicted clean latent, by three decoders: a matrix, a tiny network, the full VAE.

Nothing here touches the running job: no random numbers, no scheduler, no module state.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from locara_sidecar.engine import linear_preview, model_folder
from locara_sidecar.engine.torch_engine import weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from locara_protocol.messages import PreviewDecoder

_logger = logging.getLogger(__name__)
_PICTURES = 8
_LATENT_SIDE = 16
_COMFORTABLE_SIDE = 128
"""A linear preview is enlarged towards this, so that small latents look like a picture; hosts scale further."""


class Previews:
    """The preview decoders of one loaded model.

    :param folder: the model's; may hold ``linear_preview.json`` and ``tiny_vae``.
    :param vae: gives the model's own AutoencoderKL, as it is now: its weights need not be loaded from the start.
    """

    def __init__(self, folder: Path, vae: Callable[[], Any]) -> None:
        self._folder = folder
        self._get_vae = vae
        self._factor = 2 ** (len(vae().config.block_out_channels) - 1)
        self._linear: linear_preview.LinearPreview | None = None
        self._tiny: Any = None
        self._tiny_sought = False

    @property
    def _vae(self) -> Any:
        return self._get_vae()

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Have the decoder ready that ``mode`` needs, so that no step waits for it.

        :raises JobCancelled: while fitting; the next call starts again.
        """
        if mode in ("auto", "linear") and self._linear is None:
            self._linear = linear_preview.read(self._folder, self._vae.config.latent_channels) or self._fit(checkpoint)
        if mode == "tiny" and not self._tiny_sought:
            self._tiny = self._load_tiny(checkpoint)
            self._tiny_sought = True

    def decode(self, x0: torch.Tensor, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """``x0`` (1, C, h, w) as the transformer's latent; None when the model has no decoder for ``mode``."""
        with torch.no_grad():
            match mode:
                case "linear":
                    return self._decode_linear(x0, max_side), "linear"
                case "tiny":
                    self.prepare("tiny", _go_on)
                    return None if self._tiny is None else (self._decode_with(self._tiny, x0, max_side), "tiny")
                case "full":
                    return self._decode_with(self._vae, x0, max_side), "full"
                case _:
                    return None

    def _decode_linear(self, x0: torch.Tensor, max_side: int) -> PilImage:
        self.prepare("linear", _go_on)
        assert self._linear is not None
        picture = Image.fromarray(self._linear.apply(raw_latent(self._vae, x0)[0].float().cpu().numpy()))
        longest = max(picture.size)
        side = min(max_side, max(longest, min(_COMFORTABLE_SIDE, longest * self._factor)))
        if side == longest:
            return picture
        return picture.resize(_scaled(picture.size, side), Image.Resampling.BICUBIC)

    def _decode_with(self, vae: Any, x0: torch.Tensor, max_side: int) -> PilImage:
        pixels = vae.decode(raw_latent(vae, x0).to(vae.dtype), return_dict=False)[0][0]
        values = (pixels.float() * 127.5 + 127.5).nan_to_num().clamp(0, 255).round().to(torch.uint8)
        picture = Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
        if max(picture.size) <= max_side:
            return picture
        return picture.resize(_scaled(picture.size, max_side), Image.Resampling.LANCZOS)

    def _fit(self, checkpoint: Callable[[], None]) -> linear_preview.LinearPreview:
        """Fit the matrix against the model's own encoder, on pictures made here, one at a time."""
        pictures = linear_preview.synthetic_pictures(_PICTURES, _LATENT_SIDE * self._factor)
        latents: list[Any] = []
        with torch.no_grad():
            for picture in pictures:
                checkpoint()
                pixels = torch.tensor(picture[None], device=self._vae.device, dtype=self._vae.dtype)
                latents.append(self._vae.encode(pixels).latent_dist.mode().float().cpu().numpy())
        fitted = linear_preview.fit(np.concatenate(latents), pictures)
        _logger.info("linear preview fitted; root mean square residual %.3f of a range of 2", fitted.residual)
        return fitted

    def _load_tiny(self, checkpoint: Callable[[], None]) -> Any:
        """The AutoencoderTiny in ``tiny_vae``, or None where there is none or it cannot be used."""
        if not (self._folder / "tiny_vae" / "config.json").is_file():
            return None
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        from locara_sidecar.engine.runtime import EngineFault

        try:
            part = model_folder.read_component(self._folder, "tiny_vae", "AutoencoderTiny", "diffusion_pytorch_model")
            progress = model_folder.Progress(part.size, _ignore, checkpoint)
            tiny = weights.shell(AutoencoderTiny, part, self._vae.dtype)
            weights.fill(tiny, part, self._vae.dtype, str(self._vae.device), progress)
        except (EngineFault, RuntimeError, TypeError, ValueError) as error:
            _logger.warning("the tiny preview decoder cannot be used: %s", type(error).__name__)
            return None
        return tiny


def raw_latent(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """A transformer's latent as the decoder takes it."""
    return latent / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` with its longest side ``side``."""
    longest = max(size)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def _go_on() -> None:
    """A checkpoint that never stops."""


def _ignore(fraction: float) -> None:
    del fraction
