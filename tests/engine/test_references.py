"""Several pictures of an edit become what the model sees: each upright and in its own size, in the call's order."""

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine.drawing import source
from locara_sidecar.ipc import frames
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import supported
from support.image_files import encoded

RNG = np.random.default_rng(0)


def photo(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def read(spec, monkeypatch):
    """Reads the pictures as a model's that takes ``most``, or as those of a family that no engine runs."""

    def run(*images, most=4, mask=None, listed=True, width=0, height=0, room=lambda _: None):
        job = spec(edit=frames.EditSpec(images=list(images), mask=mask, listed=listed), width=width, height=height)
        row = supported.Family(
            name=job.model.family,
            pipeline="",
            encoders={},
            network="",
            tokenizers={},
            adapters={},
            references=most or 1,
        )
        monkeypatch.setattr(source, "FAMILIES", {row.name: row} if most else {})
        return source.read(job, room)

    return run


def same(one, other):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_each_picture_keeps_its_size_and_place_and_the_first_also_has_the_jobs(read):
    pictures = [photo(512, 256), photo(97, 601), photo(1024, 1024)]
    found = read(*map(encoded, pictures), width=256, height=512)
    assert found.sizes == ((512, 256), (97, 601), (1024, 1024))
    for one, picture in zip(found.references, pictures, strict=True):
        same(one, picture)
    assert (found.image.size, found.resized) == ((256, 512), True)


def test_one_picture_is_a_reference_too_for_a_model_that_takes_several_and_for_no_other(read):
    picture = photo(512, 256)
    (one,) = read(encoded(picture), listed=False).references
    same(one, picture)
    alone = read(encoded(picture), most=1, listed=False)
    assert (alone.references, alone.sizes) == ((), ((512, 256),))
    assert read(encoded(picture), most=0).references == ()
    assert len(read(encoded(picture), encoded(picture), most=0).references) == 2


def test_only_what_has_more_than_a_megapixel_is_scaled_down_and_keeps_its_shape(read):
    found = read(
        *(encoded(photo(*size)) for size in ((1024, 1024), (1025, 1024), (4000, 500), (1536, 1536))),
        width=256,
        height=256,
    )
    assert found.sizes == ((1024, 1024), (1024, 1023), (2896, 362), (1024, 1024))
    assert max(width * height for width, height in found.sizes) <= source.REFERENCE_AREA


def test_the_edges_are_cropped_evenly_to_the_models_grid():
    picture = photo(107, 64)
    same(source.on_grid(picture, 16), picture.crop((5, 0, 101, 64)))
    assert source.on_grid(picture, 1).size == (107, 64)


def test_scaling_and_cropping_are_those_of_diffusers(read):
    processors = pytest.importorskip("diffusers.pipelines.flux2.image_processor")
    processor = processors.Flux2ImageProcessor(vae_scale_factor=16)
    for size in ((1499, 1031), (97, 601), (1024, 1024), (4000, 500), (1111, 943)):
        picture = photo(*size)
        (mine,) = read(encoded(picture), width=256, height=256).references
        theirs = picture
        if size[0] * size[1] > 1024 * 1024:
            theirs = processor._resize_to_target_area(picture, 1024 * 1024)
        same(mine, theirs)
        width, height = (side // 16 * 16 for side in theirs.size)
        same(source.on_grid(mine, 16), processor._resize_and_crop(theirs, width, height))


@pytest.mark.parametrize(("size", "good"), [((64, 64), True), ((63, 64), False), ((64, 512), True), ((64, 513), False)])
def test_a_picture_that_is_too_small_or_too_long_is_refused_by_its_place_and_size(read, size, good):
    pictures = [encoded(photo(256, 256)), encoded(photo(*size))]
    if good:
        assert read(*pictures).sizes[1] == size
        return
    with pytest.raises(EngineError) as caught:
        read(*pictures)
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidImage", "$.images[1]")
    assert f"{size[0]} × {size[1]}" in caught.value.message
    with pytest.raises(EngineError) as caught:
        read(*pictures[::-1])
    assert caught.value.data["path"] == "$.images[0]"


def test_a_warning_and_the_lack_of_memory_name_the_picture(read):
    good, odd = encoded(photo(256, 256)), encoded(photo(256, 256), icc_profile=b"no profile")
    ((kind, words),) = read(good, odd, good).warnings
    assert kind == "ColourProfileIgnored"
    assert words.startswith("images[1]: The picture's colour profile was not applied")
    assert [kind for kind, _ in read(odd, odd).warnings] == [kind] * 2
    asked = []

    def room(needed):
        asked.append(needed)
        if len(asked) == 3:
            raise EngineError("InsufficientMemory", "There is none.")

    with pytest.raises(EngineError) as caught:
        read(good, good, good, room=room)
    assert caught.value.data["path"] == "$.images[2]"


def test_the_mask_is_that_of_the_first_picture(read):
    mask = encoded(Image.new("L", (256, 320), 255))
    found = read(encoded(photo(256, 320)), encoded(photo(320, 256)), mask=mask)
    assert found.mask.size == (256, 320)
    with pytest.raises(EngineError) as caught:
        read(encoded(photo(320, 256)), encoded(photo(256, 320)), mask=mask)
    assert caught.value.data["path"] == "$.mask"
