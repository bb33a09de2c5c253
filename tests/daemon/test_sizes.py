"""Which sizes a model's images may have, and what is said about other sizes."""

import pytest

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import GenerateOptions
from locara_sidecar.daemon.access.sizes import MAX_INLINE_IMAGE_BYTES, size_of
from locara_sidecar.models import catalogue

FLUX = catalogue.load().get("flux.1-schnell")


def refused(**options):
    inline, edit = options.pop("inline", False), options.pop("edit", False)
    with pytest.raises(RpcError) as caught:
        size_of(GenerateOptions(**options), FLUX, inline=inline, edit=edit)
    assert caught.value.kind == "InvalidParams"
    return caught.value.data


@pytest.mark.parametrize(
    ("asked", "nearest"), [(1000, 992), (1001, 1008), (255, 256), (16, 256), (2049, 2048), (5000, 2048), (1023, 1024)]
)
@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_off_the_grid_is_refused_with_the_nearest(side, asked, nearest):
    data = refused(**{side: asked})
    assert (data["path"], data["nearest"]) == (f"$.options.{side}", nearest)
    assert (data["minimum"], data["maximum"], data["multipleOf"]) == (256, 2048, 16)
    assert size_of(GenerateOptions(**{side: nearest}), FLUX, inline=False, edit=False)


def test_sides_that_are_allowed_may_be_too_many_pixels_together():
    assert size_of(GenerateOptions(width=2048, height=1024), FLUX, inline=False, edit=False)[:2] == (2048, 1024)
    assert refused(width=2048, height=1040)["maxPixels"] == 2048 * 1024


def test_a_side_that_is_not_named_is_the_models_usual_one_and_in_an_edit_the_sources():
    assert size_of(GenerateOptions(), FLUX, inline=False, edit=False)[:2] == (1024, 1024)
    assert size_of(GenerateOptions(height=512), FLUX, inline=False, edit=True)[:2] == (0, 512)


def test_an_inline_answer_has_room_for_so_many_pixels():
    """3 bytes per pixel become 4 in base64."""
    assert MAX_INLINE_IMAGE_BYTES // 4 >= 1024 * 1024
    assert size_of(GenerateOptions(count=1), FLUX, inline=True, edit=False)[2].max_pixels == MAX_INLINE_IMAGE_BYTES // 4
    data = refused(count=2, inline=True)
    assert (data["path"], data["maxInlineImageBytes"]) == ("$.options.output.mode", MAX_INLINE_IMAGE_BYTES)
    assert refused(count=16, width=512, height=512, inline=True)["path"] == "$.options.output.mode"
