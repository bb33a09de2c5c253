"""Linear previews: the matrix, its stored form, and the pictures that it is fitted on."""

import json

import pytest

np = pytest.importorskip("numpy")

from locara_sidecar.engine.previews import linear_preview  # noqa: E402


class TestLinearPreview:
    """The NumPy part only."""

    def test_a_linear_encoder_is_recovered(self):
        pictures = linear_preview.synthetic_pictures(4, 64)
        means = pictures.reshape(4, 3, 8, 8, 8, 8).mean(axis=(3, 5))
        mix = np.random.default_rng(1).normal(size=(3, 6))
        latents = (np.einsum("nchw,cd->ndhw", means, mix) + 0.3).astype(np.float32)
        fitted = linear_preview.fit(latents, pictures)
        assert fitted.residual < 1e-4
        wanted = np.clip(np.moveaxis(means[0], 0, -1) * 127.5 + 127.5, 0, 255)
        assert np.abs(fitted.apply(latents[0]).astype(float) - wanted).max() <= 1

    def test_what_is_stored_is_read_back(self, tmp_path):
        fitted = linear_preview.LinearPreview(np.ones((4, 3), np.float32) / 3, np.zeros(3, np.float32), 0.1)
        (tmp_path / linear_preview.FILE_NAME).write_text(json.dumps(fitted.to_json()))
        again = linear_preview.read(tmp_path, 4)
        np.testing.assert_allclose(again.matrix, fitted.matrix, atol=1e-5)
        assert linear_preview.read(tmp_path, 16) is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '"x"'])
    def test_what_is_no_stored_matrix_is_passed_over(self, tmp_path, text):
        (tmp_path / linear_preview.FILE_NAME).write_text(text)
        assert linear_preview.read(tmp_path, 4) is None

    def test_synthetic_pictures_are_the_same_every_time_and_in_range(self):
        first, second = (linear_preview.synthetic_pictures(3, 64) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.abs(first).max() <= 1
        assert first.std() > 0.2
