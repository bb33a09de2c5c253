"""FLUX.1 Kontext with diffusers' own pipeline: FLUX.1 dev that also sees a picture and changes it as the prompt says.

The picture's latent (the mode of the encoder's distribution, not a sample) follows the noise as further tokens, at the
same positions but with 1 on the first axis. Without a picture it draws from text alone. There is no strength and no
mask.

By default the pipeline moves every size towards a megapixel, and the picture to one of the shapes that Kontext was
trained on. Here both keep the job's size, as the protocol promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline

from locara_sidecar.engine.torch_engine.families.diffusers_family import Pipelines
from locara_sidecar.engine.torch_engine.families.flux import Flux
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.ipc.frames import JobSpec


class FluxKontext(Flux):
    """A Kontext model; see :class:`~locara_sidecar.engine.drawing.family.Family` for its methods."""

    row = FAMILIES["flux-kontext"]
    pipelines = Pipelines(FluxKontextPipeline, FluxKontextPipeline, FluxKontextPipeline)

    def way(self, spec: JobSpec, source: Source | None) -> tuple[Any, dict[str, Any]]:
        size = {"max_area": spec.width * spec.height, "_auto_resize": False}
        return self.pipelines.text, size if source is None else size | {"image": source.image}
