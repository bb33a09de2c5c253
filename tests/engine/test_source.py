"""A picture that a host sends for editing is decoded by rules, or refused by name."""

import io
import struct

import msgspec
import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import decoding
from locara_sidecar.engine.drawing import source
from locara_sidecar.ipc import frames
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import plan
from support.image_files import chunk, encoded, raw_png

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.fixture
def read(spec):
    def run(image, mask=None, *, width=0, height=0, strength=0.6, sides=None, room=lambda _: None):
        job = spec(
            edit=frames.EditSpec(images=[image], mask=mask, strength=strength),
            width=width,
            height=height,
            model="small",
        )
        allowed = msgspec.structs.replace(job.model, sides=sides or job.model.sides)
        return source.read(msgspec.structs.replace(job, model=allowed), room)

    return run


@pytest.fixture
def refused(read):
    def run(*args, **members):
        with pytest.raises(EngineError) as caught:
            read(*args, **members)
        return caught.value

    return run


SMALL = frames.Sides(minimum=16, maximum=64, multiple_of=16, max_pixels=2048)


# --- colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pixels_arrive_as_they_were_saved(read, form):
    found = read(encoded(PICTURE, form, lossless=True))
    assert (found.image.mode, found.resized, found.strength) == ("RGB", False, 0.6)
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(PICTURE))


def test_a_jpeg_is_read(read):
    flat = Image.new("RGB", (32, 24), (200, 30, 60))
    assert np.abs(np.asarray(read(encoded(flat, "JPEG")).image, int) - (200, 30, 60)).max() <= 3


def test_grey_of_eight_bits_and_of_one(read):
    grey = PICTURE.convert("L")
    np.testing.assert_array_equal(np.asarray(read(encoded(grey)).image)[..., 1], np.asarray(grey))
    bits = PICTURE.convert("1")
    assert set(np.unique(np.asarray(read(encoded(bits)).image))) == {0, 255}


def test_sixteen_bits_become_eight_and_are_not_cut_off(read):
    values = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)
    found = np.asarray(read(encoded(Image.fromarray(values))).image)[..., 0]
    np.testing.assert_array_equal(found, np.round(values / 257).astype(np.uint8))


def test_colour_of_sixteen_bits(read):
    row = b"\0" + struct.pack(">3H", 0x80FF, 0x0102, 0xFFFF) * 16
    assert read(raw_png(16, 16, 16, 2, row * 16)).image.getpixel((3, 3)) == (0x80, 0x01, 0xFF)


def test_a_palette_and_its_transparent_entry(read):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 8, 7, 250, 0, 10])
    image.putpixel((0, 0), 0)
    assert read(encoded(image)).image.getpixel((5, 5)) == (250, 0, 10)
    found = read(encoded(image, transparency=0)).image
    assert (found.getpixel((0, 0)), found.getpixel((5, 5))) == ((255, 255, 255), (250, 0, 10))


def test_cmyk_becomes_rgb(read):
    red, green, blue = read(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).image.getpixel((8, 8))
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_transparent_picture_lies_on_white(read, form):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 200, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    found = read(encoded(image, form, lossless=True)).image
    assert [found.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (100, 0, 200)]
    assert found.getpixel((2, 0))[0] in (126, 127, 128)


def test_grey_with_alpha_and_a_transparent_grey_of_sixteen_bits(read):
    assert read(encoded(Image.new("LA", (16, 16), (10, 0)))).image.getpixel((0, 0)) == (255, 255, 255)
    row = b"\0" + struct.pack(">2H", 1000, 40000) * 8
    found = read(raw_png(16, 16, 16, 0, row * 16, chunk(b"tRNS", struct.pack(">H", 1000)))).image
    assert (found.getpixel((0, 0))[0], found.getpixel((1, 0))[0]) == (255, round(40000 / 257))


# --- rotation ---------------------------------------------------------------------------------

TURNS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.transpose(stored, (1, 0, 2)),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.transpose(stored, (1, 0, 2)), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_exif_rotation_is_applied(read, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(encoded(PICTURE, form, lossless=True, exif=exif)).image
    np.testing.assert_array_equal(np.asarray(found), TURNS[orientation](np.asarray(PICTURE)))


def test_exif_rotation_of_a_jpeg_and_of_its_mask(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(encoded(PICTURE, "JPEG", exif=exif), encoded(Image.new("L", (32, 24), 255), "JPEG", exif=exif))
    assert found.image.size == found.mask.size == (24, 32)


@pytest.mark.parametrize("exif", [b"Exif\0\0not exif at all", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_exif_that_nobody_can_read_turns_nothing(read, exif):
    assert read(encoded(PICTURE, "JPEG", exif=exif)).image.size == (32, 24)


def test_a_photo_with_a_smaller_copy_inside_is_its_first_picture(read):
    photo = encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE.resize((16, 12))])
    assert Image.open(io.BytesIO(photo)).format == "MPO"
    assert read(photo).image.size == (32, 24)


# --- what is refused --------------------------------------------------------------------------


def frames_of(form):
    return encoded(PICTURE, form, save_all=True, append_images=[PICTURE.transpose(Image.Transpose.ROTATE_180)])


def huge(form):
    if form == "PNG":
        return raw_png(9000, 8000, 8, 2, b"")
    data = encoded(PICTURE, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 8000, 9000) + data[at + 4 :]


REFUSALS = {
    "nothing": (b"", "not a PNG, JPEG or WebP"),
    "text": (b"a lighthouse", "not a PNG, JPEG or WebP"),
    "a GIF": (encoded(PICTURE, "GIF"), "not a PNG, JPEG or WebP"),
    "a TIFF": (encoded(PICTURE, "TIFF"), "not a PNG, JPEG or WebP"),
    "half a PNG": (encoded(PICTURE)[:900], "incomplete"),
    "half a JPEG": (encoded(PICTURE, "JPEG", quality=95)[:900], "incomplete"),
    "half a WebP": (encoded(PICTURE, "WEBP", lossless=True)[:900], "broken"),
    "a PNG with wrong bytes": (encoded(PICTURE).replace(b"IDAT", b"IDAT\xff\xff\xff\xff", 1), "broken"),
    "an animated PNG": (frames_of("PNG"), "animated"),
    "an animated WebP": (frames_of("WEBP"), "animated"),
    "a huge PNG": (huge("PNG"), "9000 × 8000"),
    "a huge JPEG": (huge("JPEG"), "9000 × 8000"),
    "a PNG beyond Pillow's own limit": (raw_png(30000, 30000, 8, 2, b""), "30000 × 30000"),
    "a PNG beyond where Pillow warns": (raw_png(10000, 10000, 8, 2, b""), "10000 × 10000"),
}


@pytest.mark.parametrize(("data", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_file_that_is_no_good_picture_is_refused_with_the_reason(refused, data, why):
    fault = refused(data)
    assert (fault.kind, fault.data["path"]) == ("InvalidImage", "$.image")
    assert why in fault.data["reason"]
    assert why in fault.message


def test_a_broken_mask_is_told_from_a_broken_picture(refused):
    fault = refused(encoded(PICTURE), b"no mask")
    assert (fault.kind, fault.data["path"]) == ("InvalidImage", "$.mask")


@pytest.mark.parametrize("form", decoding.FORMATS)
def test_a_picture_of_too_many_pixels_is_not_decoded(refused, monkeypatch, form):
    data = encoded(PICTURE, form)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 32 * 24 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    assert "32 × 24" in refused(data).data["reason"]


def test_a_file_of_too_many_bytes_is_not_looked_at(refused, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 100)
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it was opened"))
    assert "100 are allowed" in refused(encoded(PICTURE)).data["reason"]


# --- masks ------------------------------------------------------------------------------------


def test_a_mask_keeps_its_levels(read):
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1)))
    found = read(encoded(PICTURE), encoded(ramp)).mask
    assert found.mode == "L"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(ramp))
    assert (read(encoded(PICTURE)).mask, read(encoded(PICTURE), strength=None).strength) == (None, None)


def test_a_transparent_part_of_a_mask_is_kept_and_a_white_stroke_repainted(read):
    strokes = Image.new("RGBA", (32, 24), (255, 255, 255, 0))
    strokes.putpixel((4, 5), (255, 255, 255, 255))
    assert np.argwhere(np.asarray(read(encoded(PICTURE), encoded(strokes)).mask)).tolist() == [[5, 4]]


def test_a_mask_of_sixteen_bits(read):
    values = np.where(np.arange(32) < 16, 128, 60000).astype(np.uint16)
    found = read(encoded(PICTURE), encoded(Image.fromarray(np.tile(values, (24, 1))))).mask
    assert np.asarray(found)[7].tolist() == [0] * 16 + [233] * 16


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_a_patch_is_painted_if_anything_in_it_is_above_black(factor):
    mask = Image.new("L", (48, 32))
    mask.putpixel((17, 31), 1)
    mask.paste(255, (33, 1, 34, 2))
    found = source.painted_patches(mask, factor)
    assert found.shape == (32 // factor, 48 // factor)
    assert np.argwhere(found).tolist() == sorted([[31 // factor, 17 // factor], [0, 33 // factor]])


def test_a_mask_of_another_size_is_refused_with_both_sizes(refused):
    fault = refused(encoded(PICTURE), encoded(Image.new("L", (24, 32))))
    assert (fault.kind, fault.data["path"]) == ("InvalidImage", "$.mask")
    assert "24 × 32" in fault.message
    assert "32 × 24" in fault.message


def test_the_composite_keeps_what_is_not_masked(read):
    mask = Image.new("L", (32, 24))
    mask.paste(255, (8, 8, 16, 16))
    found = read(encoded(PICTURE), encoded(mask))
    painted = Image.new("RGB", (32, 24), (1, 2, 3))
    result = np.asarray(source.composite(found, painted))
    inside = np.asarray(mask) == 255
    assert (result[inside] == (1, 2, 3)).all()
    np.testing.assert_array_equal(result[~inside], np.asarray(PICTURE)[~inside])
    assert source.composite(read(encoded(PICTURE)), painted) is painted


def test_the_composite_mixes_in_proportion(read):
    levels = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))
    found = read(encoded(PICTURE), encoded(Image.fromarray(levels)))
    result = np.asarray(source.composite(found, Image.new("RGB", (32, 24), (255, 0, 100))))
    share = levels[..., None] / 255
    assert np.abs(result - (share * (255, 0, 100) + (1 - share) * np.asarray(PICTURE))).max() <= 0.5 + 1e-9


# --- sizes ------------------------------------------------------------------------------------


def test_another_size_resizes_picture_and_mask(read):
    mask = Image.new("L", (32, 24))
    mask.paste(255, (0, 0, 16, 24))
    found = read(encoded(PICTURE), encoded(mask), width=64, height=32)
    assert (found.image.size, found.mask.size, found.resized) == ((64, 32), (64, 32), True)
    assert (found.width, found.height) == (64, 32)
    np.testing.assert_array_equal(np.asarray(found.mask), np.tile(np.repeat([255, 0], 32).astype(np.uint8), (32, 1)))
    assert not read(encoded(PICTURE), width=32, height=24).resized


@pytest.mark.parametrize(
    ("size", "path", "width", "height"),
    [
        ((50, 32), "$.options.width", 48, 32),
        ((32, 50), "$.options.height", 32, 48),
        ((10, 32), "$.options.width", 16, 48),
        ((640, 320), "$.options.width", 64, 32),
        ((64, 64), "$.options.width", 32, 48),
        ((4000, 16), "$.options.width", 64, 16),
    ],
)
def test_a_source_whose_size_the_model_has_not_is_told_the_nearest(refused, size, path, width, height):
    fault = refused(encoded(Image.new("RGB", size)), sides=SMALL)
    assert (fault.kind, fault.data["path"]) == ("InvalidParams", path)
    assert (fault.data["width"], fault.data["height"]) == (width, height)
    assert f"{width} × {height}" in fault.message


def test_what_is_told_as_nearest_is_allowed_and_keeps_the_shape():
    allowed = frames.Sides(minimum=256, maximum=2048, multiple_of=16, max_pixels=2_097_152)
    for _ in range(2000):
        size = tuple(int(side) for side in np.exp(RNG.uniform(0, 10, 2)))
        width, height = source.nearest(size, allowed)
        assert 256 <= min(width, height) <= max(width, height) <= 2048
        assert width % 16 == height % 16 == 0
        assert width * height <= 2_097_152
        if 0.2 < size[0] / size[1] < 5 and min(size) > 300:
            assert abs(np.log(width / height * size[1] / size[0])) < 0.09
    assert source.nearest((1024, 1024), allowed) == (1024, 1024)


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "path"), [(0, "$.image"), (1, "$.mask")])
def test_what_there_is_no_memory_for_is_refused_by_name(refused, room, path):
    asked = []

    def allow(needed):
        asked.append(needed)
        plan.require_room(needed, 1 << 40 if len(asked) <= room else needed - 1)

    error = refused(encoded(PICTURE), encoded(PICTURE.convert("L")), room=allow)
    assert (error.kind, error.data["path"]) == ("InsufficientMemory", path)
    assert (error.data["needed"], error.data["available"]) == (asked[-1], asked[-1] - 1)
    assert error.data["suggestions"]
