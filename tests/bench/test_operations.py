"""The count of operations is right for known graphs, and finds waste."""

import mlx.core as mx
import pytest
from mlx import nn

from bench import operations
from bench.operations import Work
from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.denoisers.flux import FluxConfig
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Config
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import MmditConfig
from locara_sidecar.engine.mlx_engine.denoisers.unet_config import UnetConfig
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig

pytestmark = pytest.mark.slow

FLUX = FluxConfig(
    num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
    pooled_projection_dim=20, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
)  # fmt: skip
MMDIT = MmditConfig(
    num_layers=3, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=24, caption_projection_dim=32,
    pooled_projection_dim=20, dual_attention_layers=(0, 1), qk_norm="rms_norm", pos_embed_max_size=64,
)  # fmt: skip
UNET = UnetConfig(
    block_out_channels=(16, 32, 48), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 3),
    attention_head_dim=(2, 4, 6), cross_attention_dim=24, norm_num_groups=8, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 1280,
)  # fmt: skip


Z_IMAGE = ZImageConfig(dim=64, n_layers=3, n_refiner_layers=2, n_heads=2, cap_feat_dim=24, axes_dims=(8, 12, 12))
FLUX2 = Flux2Config(
    in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=4,
    joint_attention_dim=24, axes_dims_rope=(4, 4, 4, 4),
)  # fmt: skip


def test_products_convolutions_and_attention_are_counted():
    layer, quantized, conv = nn.Linear(64, 32), nn.QuantizedLinear(64, 32, bits=4), nn.Conv2d(3, 8, 3, padding=1)
    assert operations.issued(layer, mx.zeros((1, 5, 64))) == Work(products=2 * 5 * 64 * 32)
    assert operations.issued(quantized, mx.zeros((1, 5, 64))) == Work(products=2 * 5 * 64 * 32)
    assert operations.issued(conv, mx.zeros((1, 4, 6, 3))) == Work(products=2 * 4 * 6 * 8 * 27)

    def attend(x):
        return mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0)

    assert operations.issued(attend, mx.zeros((1, 2, 7, 16))) == Work(attention=4 * 7 * 7 * 32)


CASES = {
    "flux": lambda: (operations.flux_needs(FLUX, 32), operations.flux_issues(FLUX, 32, 4)[0]),
    "kontext": lambda: (
        operations.flux_needs(FLUX, 32, operations.PATCHES),
        operations.flux_issues(FLUX, 32, 4, kontext=True)[0],
    ),
    "sd3": lambda: (operations.mmdit_needs(MMDIT, 32), operations.mmdit_issues(MMDIT, 32, 4)[0]),
    "z-image": lambda: (operations.zimage_needs(Z_IMAGE, 1024), operations.zimage_issues(Z_IMAGE, 1024, 4)[0]),
    "flux2": lambda: (operations.flux2_needs(FLUX2, 32), operations.flux2_issues(FLUX2, 32, 4)[0]),
    "flux2, references": lambda: (
        operations.flux2_needs(FLUX2, 32, 2 * operations.PATCHES),
        operations.flux2_issues(FLUX2, 32, 4, 2)[0],
    ),
    "sdxl": lambda: (operations.unet_needs(UNET, 32), operations.unet_issues(UNET, 32, 4)[0]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_issues_hardly_more_than_the_architecture_needs(case):
    needs, issues = CASES[case]()
    assert issues.products <= operations.MOST * needs.products
    assert issues.attention <= operations.MOST * needs.attention
    assert issues.all > 0.9 * needs.all


@pytest.mark.parametrize("case", CASES)
def test_the_count_is_the_same_where_blocks_are_compiled(case):
    plain = CASES[case]()
    mx.enable_compile()
    try:
        assert CASES[case]() == plain
    finally:
        mx.disable_compile()


def test_waste_shows(monkeypatch):
    rotated = rotary.rotated
    monkeypatch.setattr(rotary, "rotated", lambda x, *rotation: rotated(x @ mx.ones((16, 16)), *rotation))
    needs, issues = CASES["flux"]()
    assert issues.products > operations.MOST * needs.products


@pytest.mark.parametrize("case", operations.TINY, ids=[case[0] for case in operations.TINY])
def test_a_step_hands_over_its_blocks_and_itself_and_nothing_more(case):
    residual, transformer = 3 * 2 + 1 + 3 * 3, 2 * (1 + 2) + 2 + 3 * (2 + 1)
    blocks = residual + transformer if case[0] == "tiny-sdxl" else 4  # tiny-z-image: two that refine, two for all
    assert operations.graphs(*case) == blocks + 1
