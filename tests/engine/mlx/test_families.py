"""Whole runs of every family, and edits, against diffusers' pipelines on the tiny fixtures: latents and pictures."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.engine.drawing.family import Denoising
from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.drawing.source import Source
from locara_sidecar.engine.folder.model_folder import Progress
from locara_sidecar.engine.mlx_engine.families.family import OpenContext
from locara_sidecar.engine.mlx_engine.families.flux1 import Flux1, Flux1Kontext
from locara_sidecar.engine.mlx_engine.families.flux2 import Flux2
from locara_sidecar.engine.mlx_engine.families.sd3 import Sd3
from locara_sidecar.engine.mlx_engine.families.sdxl import Sdxl
from locara_sidecar.engine.mlx_engine.families.z_image import ZImage
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.frames import EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides
from support.diffusers_reference import with_scheduler
from support.edits import patches
from support.parity import TOLERANCES, error, pixel_difference

MODELS = Path(__file__).parents[3] / "fixtures" / "models"
FAMILIES = {
    "tiny-sd3": Sd3,
    "tiny-flux": Flux1,
    "tiny-flux-dev": Flux1,
    "tiny-flux-kontext": Flux1Kontext,
    "tiny-sdxl": Sdxl,
    "tiny-z-image": ZImage,
    "tiny-flux2": Flux2,
}
PIPELINES = {
    "tiny-sd3": "StableDiffusion3Pipeline",
    "tiny-flux": "FluxPipeline",
    "tiny-flux-dev": "FluxPipeline",
    "tiny-flux-kontext": "FluxKontextPipeline",
    "tiny-sdxl": "StableDiffusionXLPipeline",
    "tiny-z-image": "ZImagePipeline",
    "tiny-flux2": "Flux2KleinPipeline",
}
PROMPT = "a red circle on the blue square, é 🙂"
# diffusers 0.42 converts its levels in a way that NumPy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Control:
    """Cancels at the ``at``-th checkpoint after it is armed."""

    def __init__(self, at=0):
        self.count, self.at = 0, at

    def checkpoint(self):
        self.count += 1
        if self.count == self.at:
            raise JobCancelled


@pytest.fixture(scope="module")
def opened():
    """Families by model, each opened and loaded once."""
    kept = {}

    def open_model(name):
        if name not in kept:
            sides = Sides(minimum=16, maximum=1024, multiple_of=8, max_pixels=1 << 20)
            family = FAMILIES[name].open(OpenContext(MODELS / name, mx.float32, sides, Checkpoints()))
            names = {*family.encoders, family.denoiser, family.decoder}
            family.load(names, Progress(family.size(names), lambda _: None, lambda: None))
            assert family.missing(names) == []
            kept[name] = family
        return kept[name]

    return open_model


@pytest.fixture(scope="module")
def pipelines():
    """diffusers' pipelines by model and class, around the same weights."""
    import diffusers

    kept = {}

    def pipeline(name, cls=None):
        if name not in kept:
            path = str(MODELS / name)
            kept[name] = getattr(diffusers, PIPELINES[name]).from_pretrained(
                path, dtype=torch.float32, local_files_only=True
            )
        pipe = kept[name]
        if cls is not None:
            pipe = getattr(diffusers, cls)(**{key: value for key, value in pipe.components.items() if key in TAKEN})
        if name == "tiny-sdxl":
            with_scheduler(pipe, "euler-trailing")
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return pipeline


TAKEN = (
    *("scheduler", "transformer", "unet", "vae"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
)


def job(name, **changes):
    values = {
        "prompt": PROMPT,
        "negative_prompt": "",
        "width": 96,
        "height": 64,
        "steps": 3,
        "guidance": 3.5,
        "seed": 7,
    }
    sides = Sides(minimum=16, maximum=1024, multiple_of=8, max_pixels=1 << 20)
    model = ModelSpec(
        id=name, version="1", digest="", family="", path="", max_sequence_length=40, quantization="none",
        precision="float32", sides=sides,
    )  # fmt: skip
    return JobSpec(
        job="job-1", model=model, count=1, speed="exact", tiling="auto",
        scheduler="euler-trailing" if name == "tiny-sdxl" else "flow-match-euler",
        preview=PreviewSpec(mode="off", every_steps=1, max_side=64, max_bytes=40_000, mime_type="image/webp"),
        output=EncodeSpec(mime_type="image/png", quality=90, metadata=None), **values | changes,
    )  # fmt: skip


def ours(family, spec, source=None, control=None):
    """Return the latent, the picture and the clean latent of each step."""
    steps = []

    def on_step(step, count, x0):
        steps.append((step, count, np.array(x0)))

    family.use_scheduler(spec.scheduler)
    with family._context.checkpoints.armed(control or Control()):
        prompt = family.encode(spec.prompt, spec.model.max_sequence_length)
        negative = family.encode(spec.negative_prompt, spec.model.max_sequence_length) if spec.guidance > 1 else None
        latent = family.denoise(Denoising(spec, prompt, negative, source, NoiseStream(spec.seed), on_step))
        picture = family.to_image(family.decode(latent, tiled=False))
    return np.array(latent), picture, steps


def unpacked(pipe, latent, spec):
    """diffusers' finished latent as ours."""
    if type(pipe).__name__.startswith("Flux") and not type(pipe).__name__.startswith("Flux2"):
        latent = pipe._unpack_latents(latent, spec.height, spec.width, pipe.vae_scale_factor)
    return latent.permute(0, 2, 3, 1)


def theirs(pipe, spec, **more):
    """Return the finished latent and the picture."""
    kind = type(pipe).__name__
    arguments = {
        "prompt": spec.prompt, "num_inference_steps": spec.steps, "guidance_scale": spec.guidance,
        "width": spec.width, "height": spec.height,
    } | more  # fmt: skip
    if "XL" not in kind:
        arguments["max_sequence_length"] = spec.model.max_sequence_length
    if "ZImage" in kind:  # with guidance above 0 it would use a negative prompt
        arguments["guidance_scale"] = 0.0
    elif "Flux" not in kind:
        # for SDXL no negative prompt differs from an empty one
        arguments["negative_prompt"] = spec.negative_prompt or (None if "XL" in kind else "")
    arguments = {name: value for name, value in arguments.items() if value is not None}
    results = []
    for kind in ("latent", "pil"):
        generator = torch.Generator().manual_seed(spec.seed)
        results.append(pipe(**arguments, generator=generator, output_type=kind).images)
    return unpacked(pipe, results[0], spec), results[1][0]


def same(mine, reference):
    latent, picture, steps = mine
    assert error(latent, reference[0]) < TOLERANCES["final latent"]
    assert pixel_difference(picture, reference[1]) < TOLERANCES["final image"]
    assert [step for step, _, _ in steps] == list(range(1, len(steps) + 1))
    assert {count for _, count, _ in steps} == {len(steps)}
    assert error(steps[-1][2], latent) < 1e-5  # the last step ends at its prediction


@pytest.mark.parametrize("changes", [{}, {"width": 64, "height": 64, "steps": 1, "guidance": 0.0, "seed": 2**40 + 3}])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_is_the_one_that_diffusers_makes(opened, pipelines, name, changes):
    spec = job(name, **changes)
    more = {"max_area": spec.width * spec.height, "_auto_resize": False} if "kontext" in name else {}
    same(ours(opened(name), spec), theirs(pipelines(name), spec, **more))


@pytest.mark.slow
def test_sdxl_of_odd_latent_sizes_and_with_guidance_is_diffusers(opened, pipelines):
    spec = job("tiny-sdxl", width=72, height=104, guidance=2.0, negative_prompt="the green dog")
    same(ours(opened("tiny-sdxl"), spec), theirs(pipelines("tiny-sdxl"), spec))


def picture(width=96, height=64):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def stencil(width=96, height=64):
    mask = np.zeros((height, width), np.uint8)
    mask[10:50, 20:77] = 255
    return Image.fromarray(mask)


EDITS = {
    "tiny-sd3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "tiny-flux-dev": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "tiny-sdxl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "tiny-z-image": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
}


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_the_one_that_diffusers_makes(opened, pipelines, name, strength):
    spec = job(name, steps=4)
    more = {"image": picture(), "strength": strength}
    pipe = pipelines(name, EDITS[name][0])
    reference = theirs_edit(pipe, spec, more)
    same(ours(opened(name), spec, Source(picture(), None, strength)), reference)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", EDITS)
def test_a_masked_edit_is_the_one_that_diffusers_makes(opened, pipelines, name, strength):
    spec = job(name, steps=4)
    more = {"image": picture(), "mask_image": patches(stencil()), "strength": strength}
    reference = theirs_edit(pipelines(name, EDITS[name][1]), spec, more)
    latent, made, _ = ours(opened(name), spec, Source(picture(), stencil(), strength))
    assert error(latent, reference[0]) < TOLERANCES["final latent"]
    assert pixel_difference(made, reference[1]) < TOLERANCES["final image"]


def theirs_edit(pipe, spec, more):
    if "XLImg2Img" in type(pipe).__name__:
        more = more | {"width": None, "height": None}  # it uses the picture's size and accepts no other
    return theirs(pipe, spec, **more)


@pytest.mark.parametrize("sizes", [[(96, 64)], [(96, 64), (80, 144), (64, 64)]], ids=["one", "several"])
def test_flux2_looks_at_its_references_as_diffusers_has_it(opened, pipelines, sizes):
    spec, seen = job("tiny-flux2", width=80, height=112), tuple(picture(*size) for size in sizes)
    made = ours(opened("tiny-flux2"), spec, Source(picture(80, 112), references=seen))
    same(made, theirs(pipelines("tiny-flux2"), spec, image=list(seen)))
    assert error(made[0], ours(opened("tiny-flux2"), spec)[0]) > 0.01


@pytest.mark.parametrize("text", ["a red circle and " * 40, "红色的圆 🙂 " * 12, ""], ids=["long", "wide", "none"])
def test_flux2_reads_texts_as_diffusers_has_it(opened, pipelines, text):
    """Truncated texts, texts with several bytes per character, and padding alone."""
    spec = job("tiny-flux2", prompt=text, width=64)
    same(ours(opened("tiny-flux2"), spec), theirs(pipelines("tiny-flux2"), spec))


@pytest.mark.slow
def test_kontext_follows_its_picture_as_diffusers_has_it(opened, pipelines):
    spec = job("tiny-flux-kontext", guidance=2.5)
    reference = theirs(
        pipelines("tiny-flux-kontext"), spec, image=picture(), max_area=spec.width * spec.height, _auto_resize=False
    )
    family = opened("tiny-flux-kontext")
    made = ours(family, spec, Source(picture()))
    same(made, reference)
    assert error(made[0], ours(family, spec)[0]) > 0.01
