"""diffusers' own pipelines on the engine's device, loaded and called as its documentation says, as a reference."""

import contextlib
import functools
import sys
from pathlib import Path
from typing import Any

import torch

from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.folder import schedulers
from locara_sidecar.engine.torch_engine import devices

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
PIPELINES = {
    "tiny-sd3": ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "tiny-flux": ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "tiny-flux-dev": ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "tiny-flux-kontext": ("FluxKontextPipeline", "FluxKontextPipeline", None),
    "tiny-sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "tiny-flux2": ("Flux2KleinPipeline", "Flux2KleinPipeline", None),
    "tiny-z-image": ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
}
TEXT, IMAGE, INPAINT = range(3)


@functools.cache
def pipeline(model, way=TEXT):
    """Return the pipeline that diffusers loads from the fixture's folder."""
    import diffusers

    name = PIPELINES[model][way]
    assert name is not None
    pipe = getattr(diffusers, name).from_pretrained(
        str(MODELS / model), dtype=torch.float32, local_files_only=True, add_watermarker=False
    )
    if name.startswith("StableDiffusionXL"):  # as SDXL Lightning's model card says
        with_scheduler(pipe, "euler-trailing")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(devices.choose_device())


def with_scheduler(pipe, name):
    """Return the pipeline with the scheduler that the catalogue calls ``name``, built from the one it was loaded
    with."""
    import diffusers

    own = vars(pipe).setdefault("_own_scheduler", pipe.scheduler)
    named = schedulers.SCALED_NOISE[name]
    pipe.scheduler = getattr(diffusers, named.class_name).from_config(own.config, **named.changes)
    return pipe


def picture(model, job, way=TEXT, output_type="pil", **more):
    """Return diffusers' result for a job."""
    pipe = pipeline(model, way)
    arguments = {
        "prompt": job.prompt,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance,
        "output_type": output_type,
    } | more
    if (model, way) != ("tiny-sdxl", IMAGE):
        arguments |= {"width": job.width, "height": job.height}
    if model != "tiny-sdxl":
        arguments["max_sequence_length"] = job.model.max_sequence_length
    if model == "tiny-sd3":
        arguments["negative_prompt"] = job.negative_prompt
    if model == "tiny-sdxl":  # here no text differs from an empty text
        arguments.setdefault("negative_prompt", job.negative_prompt or None)
    if model == "tiny-z-image":  # where any number above 0 would set a negative prompt against it
        arguments["guidance_scale"] = 0.0
    if model == "tiny-flux-kontext":
        arguments |= {"max_area": job.width * job.height, "_auto_resize": False}
    with torch.no_grad():
        return pipe(**arguments).images[0]


@contextlib.contextmanager
def drawing(model, way, seed):
    """Make the pipeline draw its random numbers from the stream of ``seed``; yields the shapes drawn, in order."""
    shapes, stream = [], NoiseStream(seed)

    def draw(shape, generator=None, device=None, dtype=None, layout=None):
        shapes.append(tuple(shape))
        return torch.from_numpy(stream.normal(tuple(shape))).to(device, dtype)

    pipe = pipeline(model, way)
    modules: list[Any] = [sys.modules[type(pipe).__module__], sys.modules["diffusers.models.autoencoders.vae"]]
    scheduler = sys.modules[type(pipe.scheduler).__module__]
    modules += [scheduler] if hasattr(scheduler, "randn_tensor") else []
    kept = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = draw
    try:
        yield shapes
    finally:
        for module, original in zip(modules, kept, strict=True):
            module.randn_tensor = original
