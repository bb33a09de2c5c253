"""Models in their published form, and what diffusers draws from such a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from locara_sidecar.engine.drawing.noise import NoiseStream
from support.edits import edit, photo

if TYPE_CHECKING:
    from locara_sidecar.ipc.frames import JobSpec

FOLDER = Path(__file__).parents[2] / "fixtures" / "published"


class Published(NamedTuple):
    """A family: its name in the engines, diffusers' pipelines for it (text alone; with a picture), and what a job of it
    asks for."""

    family: str
    pipelines: tuple[str, str]
    guidance: float
    length: int
    scheduler: str = "flow-match-euler"


FAMILIES = {
    "sd3.5": Published("sd3", ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"), 4.5, 32),
    "flux-schnell": Published("flux", ("FluxPipeline", "FluxImg2ImgPipeline"), 0.0, 32),
    "flux-dev": Published("flux", ("FluxPipeline", "FluxImg2ImgPipeline"), 3.5, 48),
    "flux-kontext": Published("flux-kontext", ("FluxKontextPipeline", "FluxKontextPipeline"), 2.5, 48),
    "sdxl": Published(
        "sdxl", ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"), 0.0, 77, "euler-trailing"
    ),
    "flux2-klein": Published("flux2", ("Flux2KleinPipeline", "Flux2KleinPipeline"), 1.0, 64),
    "z-image": Published("z-image", ("ZImagePipeline", "ZImageImg2ImgPipeline"), 0.0, 64),
}
INSTRUCTED = ("flux-kontext", "flux2-klein")
"""Families that use a picture as a reference instead of starting from it."""


def job(spec: Any, model: str, **changes: Any) -> JobSpec:
    """Return a job for a model of this name; ``path`` in ``changes`` names another folder of its kind."""
    about = FAMILIES[model]
    members = {
        "id": model,
        "digest": f"sha256:{changes.get('path', model)}",
        "family": about.family,
        "path": str(FOLDER / model),
        "guidance": about.guidance,
        "max_sequence_length": about.length,
        "scheduler": about.scheduler,
        "prompt": "a red circle on the blue square, é 🙂 with a ﬁsh",
        "width": 96,
    }
    return spec(**members | changes)


def edits(spec: Any, model: str, **changes: Any) -> JobSpec:
    """Return a job that edits a photo."""
    strength = None if model in INSTRUCTED else 0.6
    return job(spec, model, edit=edit(photo(96, 64), strength=strength), **changes)


def picture(model: str, job: JobSpec, **options: Any) -> Any:
    """Return diffusers' picture for a job, from the job's own folder and with its noise.

    :param options: for ``from_pretrained``, as ``variant``.
    """
    import diffusers
    import torch

    about = FAMILIES[model]
    cls = getattr(diffusers, about.pipelines[job.edit is not None])
    more = {"add_watermarker": False} if model == "sdxl" else {}
    pipe = cls.from_pretrained(job.model.path, dtype=torch.float32, local_files_only=True, **more | options)
    pipe.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {
        "prompt": job.prompt,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance,
        "width": job.width,
        "height": job.height,
        "max_sequence_length": job.model.max_sequence_length,
    }
    if job.edit is not None:
        arguments |= {"image": photo(96, 64)} | ({} if model in INSTRUCTED else {"strength": job.edit.strength})
    if model == "sdxl":  # as SDXL Lightning's model card says
        del arguments["max_sequence_length"]
        if job.edit is not None:
            del arguments["width"], arguments["height"]
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing"
        )
    if model == "sd3.5":
        arguments["negative_prompt"] = job.negative_prompt
    if model == "flux-kontext":
        arguments |= {"max_area": job.width * job.height, "_auto_resize": False}
    return _drawn(pipe, job.seed, arguments)


def _drawn(pipe: Any, seed: int, arguments: dict[str, Any]) -> Any:
    """Return the pipeline's picture; its random numbers come from the stream of ``seed``."""
    import torch

    stream = NoiseStream(seed)

    def draw(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> Any:
        del generator, layout
        return torch.from_numpy(stream.normal(tuple(shape))).to(device, dtype)

    modules: list[Any] = [sys.modules[type(pipe).__module__], sys.modules["diffusers.models.autoencoders.vae"]]
    kept = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = draw
    try:
        with torch.no_grad():
            return pipe(**arguments).images[0]
    finally:
        for module, original in zip(modules, kept, strict=True):
            module.randn_tensor = original
