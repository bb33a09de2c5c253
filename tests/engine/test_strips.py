"""Bands and strips of an autoencoder's maps, simulated with NumPy: what is held, and the result."""

import weakref

import numpy as np
import pytest

from locara_sidecar.engine.drawing.strips import Bands, Strips


class Map(np.ndarray):
    """An array that a weak reference can watch."""


class Played(Strips):
    """(B, height, width, C), as in the MLX engine; it remembers every array that it makes."""

    rows_axis = 1

    def __init__(self, numbers):
        super().__init__(numbers)
        self.alive, self.most = [], 0

    def join(self, arrays):
        return np.concatenate(arrays, axis=1)

    def moments(self, x):
        return x.mean(axis=(1, 2)), x.var(axis=(1, 2))

    def stacked(self, values):
        return np.stack(values)

    def beside(self, values, array):
        return np.array(values)

    def activated(self, x, scale, shift):
        y = x * scale[:, None, None] + shift[:, None, None]
        return y / (1 + np.exp(-y))

    def groups(self, norm):
        return norm.groups

    def finished(self, x):
        made = np.array(x).view(Map)
        self.alive.append(weakref.ref(made))
        self.most = max(self.most, sum(there().size for there in self.alive if there() is not None))
        return made

    def _wide(self, values):
        return values


class Norm:
    def __init__(self, channels, groups):
        self.groups, self.eps = groups, 1e-6
        self.weight, self.bias = np.linspace(0.5, 1.5, channels), np.linspace(-1, 1, channels)


def blurred(x):
    """A 3 x 3 convolution with padding: the sum of each pixel's neighbours, weighted by their position."""
    wide = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    parts = [(i + 2 * j + 1) * wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return sum(parts) / 45


class Block:
    def __init__(self, before, after, groups=2):
        self.norm1, self.norm2 = Norm(before, groups), Norm(after, groups)
        self.conv1 = lambda x: blurred(x)[..., :after]
        self.conv2 = blurred
        if before != after:
            self.conv_shortcut = lambda x: 2 * x[..., :after]


@pytest.fixture
def picture():
    return np.random.default_rng(1).normal(size=(1, 40, 6, 8)) + np.linspace(0, 5, 40)[:, None, None]


def test_bands_are_one_map_and_forget_what_nobody_needs():
    bands: Bands = Bands(0, np.concatenate)
    for part in np.split(np.arange(12), [2, 5]):
        bands.add(part)
    assert bands.height == 12
    np.testing.assert_array_equal(bands.rows(1, 7), np.arange(1, 7))
    np.testing.assert_array_equal(bands.rows(2, 5), [2, 3, 4])
    bands.release(4)
    assert [len(band) for band in bands] == [3, 7]
    np.testing.assert_array_equal(bands.rows(4, 12), np.arange(4, 12))
    bands.release(12)
    assert not list(bands)
    assert bands.height == 12


@pytest.mark.parametrize("after", [8, 4])
def test_a_block_in_strips_is_the_block_and_holds_two_maps_of_its_output_or_little_more(picture, after):
    block, whole, strips = Block(8, after), Played(10**9), Played(1)
    expected = whole.whole(whole.residual(block, whole.bands(picture)))
    given = strips.bands(*(np.array(part) for part in np.split(picture, 5, axis=1)))
    made = strips.residual(block, given)
    assert sum(1 for _ in made) == 5
    assert not list(given)
    np.testing.assert_allclose(strips.whole(made), expected, rtol=1e-12)
    assert strips.most <= expected.size * 2.5


@pytest.mark.parametrize("height", [40, 39, 2])
def test_a_map_that_is_enlarged_or_halved_in_strips_is_the_same(picture, height):
    given, strips = picture[:, :height], Played(1)

    def doubled(x):
        return blurred(x.repeat(2, axis=1).repeat(2, axis=2))

    def halved(x):
        wide = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        rows, columns = (wide.shape[1] - 1) // 2, (wide.shape[2] - 1) // 2
        return sum(wide[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3))

    np.testing.assert_allclose(strips.whole(strips.enlarged(doubled, strips.bands(given))), doubled(given))
    np.testing.assert_allclose(strips.whole(strips.halved(halved, strips.bands(given))), halved(given))


def test_a_map_of_many_channels_is_made_of_few_in_strips_of_its_own_size():
    """Otherwise a picture's first map would be one band, whose intermediate results in float32 take twice a map."""

    class Layer:
        weight = np.zeros((64, 3, 3, 4))

        def __call__(self, x):
            return np.tile(blurred(x), 16)

    given = np.random.default_rng(1).normal(size=(1, 40, 6, 4))
    strips = Played(40 * 6 * 4)
    made = strips.convolved(Layer(), strips.bands(given))
    assert [band.shape[1] for band in made] == [8] * 5
    np.testing.assert_allclose(strips.whole(made), Layer()(given))
