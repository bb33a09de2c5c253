"""The noise stream: its numbers (no torch needed), and a comparison with torch's own where torch is installed."""

import numpy as np
import pytest

from locara_sidecar.engine.drawing.noise import NoiseStream

SEEDS = [0, 1, 42, 12345, 2**31, 2**32 - 1]
DRAWS = [(16,), (3,), (1, 16, 8, 8), (17,), (1,), (31, 5), (2,), (15,), (1000,), (7, 1, 3), (16, 64, 64), (1,)]


def test_the_numbers_of_seed_0_never_change():
    """The first numbers of torch.randn(16, generator=torch.Generator().manual_seed(0)) when this was written."""
    drawn = NoiseStream(0).normal(16)[:5]
    np.testing.assert_allclose(drawn, [-1.1258398, -1.1523602, -0.2505786, -0.4338788, 0.8487104], atol=2e-6)


def test_draws_have_the_shape_asked_for_and_are_float32():
    stream = NoiseStream(3)
    for shape in ((1, 4, 8, 8), (2, 2), (), (0,), (5, 0)):
        drawn = stream.normal(shape)
        assert (drawn.shape, drawn.dtype) == (shape, np.float32)
    assert stream.normal(20).shape == (20,)


def test_a_stream_continues_where_the_last_draw_ended():
    whole = NoiseStream(5).normal(64)
    stream = NoiseStream(5)
    np.testing.assert_array_equal(np.concatenate([stream.normal(32), stream.normal(32)]), whole)


def test_chunks_of_a_large_draw_join_without_a_seam():
    count = 16 * (1 << 15) * 2 + 32
    large = NoiseStream(9).normal(count)
    stream = NoiseStream(9)
    np.testing.assert_array_equal(large[:1600], stream.normal(1600))
    assert abs(float(large.mean())) < 5e-3
    assert abs(float(large.std()) - 1) < 5e-3


@pytest.mark.torch
@pytest.mark.parametrize("seed", [*SEEDS, *range(100, 120)])
def test_every_draw_of_a_history_equals_torchs(seed):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    stream = NoiseStream(seed)
    for shape in DRAWS:
        expected = torch.randn(shape, generator=generator).numpy()
        np.testing.assert_allclose(stream.normal(shape), expected, rtol=0, atol=1e-6)
