"""Values that diffusers accepts but no published model of these families has: both engines draw diffusers' picture from
the same folder, or an engine that cannot names the member before anything is loaded."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.ipc.errors import EngineError
from support.edits import edit, patches, photo, stencil
from support.fixture_models import MODELS

pytestmark = pytest.mark.slow

reference = pytest.importorskip("support.diffusers_reference", reason="diffusers is the judge")
TEXT, IMAGE, INPAINT = reference.TEXT, reference.IMAGE, reference.INPAINT

UNET, FLOW = "unet/config.json", "scheduler/scheduler_config.json"
CLIP, CLIP_2, T5, T5_2 = (f"text_encoder{end}/config.json" for end in ("", "_2", "_3", "_2"))
DRAWN = {
    **{
        f"SDXL {name}": ("tiny-sdxl", {UNET: {name: value}})
        for name, value in {
            "freq_shift": 1,
            "flip_sin_to_cos": False,
            "center_input_sample": True,
            "downsample_padding": 0,
            "mid_block_scale_factor": 1.5,
            "resnet_out_scale_factor": 1.5,
            "act_fn": "mish",
            "time_embedding_act_fn": "gelu",
            "timestep_post_act": "relu",
            "cross_attention_norm": "layer_norm",
            "mid_block_only_cross_attention": True,
            "resnet_skip_time_act": True,
        }.items()
    },
    "SDXL encoders": ("tiny-sdxl", {CLIP: {"hidden_act": "gelu_new"}, CLIP_2: {"hidden_act": "mish"}}),
    "SD3 encoders": ("tiny-sd3", {CLIP: {"hidden_act": "gelu_new"}, T5: {"feed_forward_proj": "gated-mish"}}),
    "FLUX encoders": ("tiny-flux", {CLIP: {"hidden_act": "silu"}, T5_2: {"feed_forward_proj": "gated-relu"}}),
    **{
        f"{model}, {' and '.join(changes)}": (model, {FLOW: changes})
        for model in ("tiny-sd3", "tiny-flux", "tiny-flux-dev")
        for changes in (
            {"use_karras_sigmas": True},
            {"use_exponential_sigmas": True, "shift_terminal": 0.05},
            {"shift_terminal": 0.2},
            {"invert_sigmas": True},
        )
    },
}
REFUSED = {
    UNET: {
        "only_cross_attention": True,
        "dual_cross_attention": True,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    }
}


@pytest.fixture
def changed(tmp_path):
    """Return a copy of a model (weights linked) with other members in its configurations."""

    def make(model, files):
        folder = shutil.copytree(MODELS / model, tmp_path / "model", copy_function=os.link)
        for name, members in files.items():
            text = json.dumps(json.loads((folder / name).read_text()) | members)
            (folder / name).unlink()
            (folder / name).write_text(text)
        return folder

    return make


@pytest.fixture
def theirs_of(monkeypatch):
    """Return the picture of diffusers' own pipeline, loaded from a folder."""

    def make(folder, model, spec, way, **arguments):
        (folder.parent / model).symlink_to(folder)
        monkeypatch.setattr(reference, "MODELS", folder.parent)
        reference.pipeline.cache_clear()
        with reference.drawing(model, way, spec.seed):
            if (model, way) != ("tiny-sd3", INPAINT):
                return reference.picture(model, spec, way, **arguments)
            # its pipeline forgets the autoencoder's shift when decoding
            latent = reference.picture(model, spec, way, "latent", **arguments)[None]
        pipe = reference.pipeline(model, way)
        raw = latent / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        with torch.no_grad():
            return pipe.image_processor.postprocess(pipe.vae.decode(raw).sample)[0]

    yield make
    reference.pipeline.cache_clear()


def same(engine, mine, theirs):
    difference = np.abs(np.array(mine).astype(int) - np.array(theirs)).max()
    assert difference <= (1 if engine == "torch" else 2)


@pytest.mark.quick_cases("SDXL act_fn", "FLUX encoders", "tiny-sd3, use_karras")
@pytest.mark.parametrize(("model", "files"), DRAWN.values(), ids=DRAWN)
def test_a_picture_is_diffusers(engine, runtimes, run, job_for, changed, theirs_of, model, files):
    folder = changed(model, files)
    spec = job_for(model, path=str(folder), digest=str(folder), precision="float32")
    same(engine, run(runtimes(model), spec).images[0], theirs_of(folder, model, spec, TEXT))


@pytest.mark.quick_cases("tiny-flux-1-0.6")
@pytest.mark.parametrize(("way", "strength"), [(IMAGE, 0.6), (INPAINT, 0.6), (INPAINT, 1.0)])
@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-flux"])
@pytest.mark.parametrize("member", ["invert_sigmas", "use_karras_sigmas"])
def test_an_edit_is_diffusers(engine, runtimes, run, job_for, changed, theirs_of, model, way, strength, member):
    folder, mask = changed(model, {FLOW: {member: True}}), None if way == IMAGE else patches(stencil())
    edited = edit(photo(), mask, strength=strength)
    spec = job_for(model, path=str(folder), digest=str(folder), precision="float32", edit=edited)
    mine = run(runtimes(model), spec).images[0]
    arguments = {"image": photo(), "strength": strength} | ({} if mask is None else {"mask_image": mask})
    theirs = theirs_of(folder, model, spec, way, **arguments)
    same(engine, mine, theirs if mask is None else Image.composite(theirs, photo(), mask))


@pytest.mark.mlx
@pytest.mark.parametrize(("file", "member", "value"), [(f, m, v) for f, ms in REFUSED.items() for m, v in ms.items()])
def test_what_mlx_does_not_run_is_refused_by_the_members_name_with_the_engine_that_does(
    engine, cold, run, job_for, changed, file, member, value
):
    if engine != "mlx":
        pytest.skip("diffusers' own classes run it, if the weights fit")
    spec = job_for("tiny-sdxl", path=str(changed("tiny-sdxl", {file: {member: value}})))
    events = []
    with pytest.raises(EngineError) as caught:
        run(cold, spec, on_event=events.append)
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", [file])
    assert f"the mlx engine cannot run its {member} of" in caught.value.message
    assert caught.value.message.endswith("the torch engine can.")
    assert {(event.phase, event.fraction) for event in events} == {("loading", 0.0)}
