"""Cosines and sines by axis: the same numbers as one table for all tokens, and which of the two blocks get."""

import mlx.core as mx
import numpy as np
import pytest

from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux, FluxConfig
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Config, Flux2Transformer
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig, ZImageTransformer
from locara_sidecar.engine.mlx_engine.kernels import rotated_heads
from locara_sidecar.engine.mlx_engine.rotation import ByAxis, by_axis, by_nothing

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("untried")]


def one_table(places, sizes, base, *, rounded):
    """The definition, for every token: cosine and sine of position times frequency, in float64 and then rounded."""
    angles = [places[:, axis, None] * base ** (-np.arange(0, size, 2) / size) for axis, size in enumerate(sizes)]
    joined = np.concatenate(angles, axis=1)
    joined = joined.astype(np.float32).astype(np.float64) if rounded else joined
    return np.stack([np.cos(joined), np.sin(joined)], axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("sizes", "base", "rounded"),
    [
        ((16, 56, 56), 10_000.0, False),  # FLUX.1
        ((32, 32, 32, 32), 2000.0, False),  # FLUX.2
        ((32, 48, 48), 256.0, True),  # Z-Image
        ((4, 2, 8), 100.0, False),
        ((6,), 100.0, True),
    ],
)
def test_what_is_looked_up_by_axis_is_the_table_to_the_bit(sizes, base, rounded):
    places = np.random.default_rng(len(sizes)).integers(0, 600, (1000, len(sizes))).astype(np.float64)
    found = by_axis(places, sizes, base, rounded=rounded).table()
    assert (found.dtype, found.shape) == (mx.float32, (1000, sum(sizes) // 2, 2))
    assert np.array_equal(np.array(found), one_table(places, sizes, base, rounded=rounded))


def test_each_position_on_an_axis_is_there_once_and_axes_of_one_size_share_them():
    grid = np.indices((1, 64, 64)).reshape(3, -1).T.astype(np.float64)
    rotation = by_axis(grid, (16, 56, 56), 10_000.0)
    assert rotation.cos_sin.shape == (1 * 8 + 64 * 28, 2)
    assert (rotation.starts.shape, rotation.columns.shape) == ((4096, 3), (64, 2))


def test_the_first_tokens_alone_are_rotated_as_among_all():
    rotation = by_axis(np.arange(24.0).reshape(8, 3), (2, 4, 2), 100.0)
    assert mx.array_equal(rotation.first(5).table(), rotation.table()[:5]).item()


def test_by_nothing_is_a_cosine_of_1_and_a_sine_of_0():
    table = np.array(by_nothing(5, 6).table())
    assert table.shape == (5, 3, 2)
    assert (table == [1, 0]).all()


def flux():
    config = FluxConfig(num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2,
                        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6))  # fmt: skip
    return config, Flux(config).rotation(3, (8, 4))


def flux2():
    config = Flux2Config(num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2,
                         joint_attention_dim=8, axes_dims_rope=(4, 4, 4, 4))  # fmt: skip
    return config, Flux2Transformer(config).rotation(3, (8, 4))


def z_image():
    config = ZImageConfig(dim=32, n_layers=0, n_refiner_layers=0, n_heads=2, cap_feat_dim=8, axes_dims=(4, 6, 6))
    return config, ZImageTransformer(config).places(3, 8, 4).both


@pytest.mark.parametrize("made", [flux, flux2, z_image])
def test_a_model_hands_over_a_table_only_where_the_kernel_is_not_used(made):
    config, table = made()
    rotated_heads.trust(rotated_heads.Use(mx.float16, *config.rotated_heads))
    assert isinstance(made()[1], mx.array), "it was trusted for another type"
    rotated_heads.trust(rotated_heads.Use(mx.float32, *config.rotated_heads))
    by_position = made()[1]
    assert isinstance(by_position, ByAxis)
    assert mx.array_equal(by_position.table(), table).item()


def test_heads_that_are_not_normed_get_a_table():
    assert isinstance(rotary.for_blocks(by_nothing(5, 6), None, mx.float32), mx.array)


def test_a_compiled_block_gets_it_as_it_is():
    """Arguments of a compiled function are taken apart into arrays and put together again."""
    rotation, given = by_axis(np.arange(24.0).reshape(8, 3), (2, 4, 2), 100.0), []

    def block(x, rotation):
        given.append(type(rotation))
        return x * rotation.table()[..., 0]

    x = mx.ones((8, 4))
    mx.enable_compile()
    try:
        ours = mx.compile(block)(x, rotation)
        mx.eval(ours)
    finally:
        mx.disable_compile()
    assert given == [ByAxis]
    assert mx.array_equal(ours, rotation.table()[..., 0]).item()
