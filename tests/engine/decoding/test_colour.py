"""Colours are read as they were meant, alike in every format, and a useless profile is reported."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from locara_sidecar.engine import decoding
from locara_sidecar.engine.decoding import colour
from support.image_files import chunk, encoded, icc_profile, jpeg_of_profile, with_segments

P3 = icc_profile()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
SOFT = Image.fromarray(np.random.default_rng(0).integers(40, 216, (4, 6, 3), dtype=np.uint8)).resize(
    (48, 32), Image.Resampling.BICUBIC
)
PLAIN = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}


def pixels(data):
    return np.asarray(decoding.picture(data).image).astype(int)


def p3_to_srgb(levels):
    """Return the same conversion by its definition: sRGB's curve, both matrices to XYZ (CSS Color 4), the curve."""
    values = np.asarray(levels) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    p3 = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]])
    srgb = np.array([[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.11919, 0.95053]])
    linear = (linear @ p3.T @ np.linalg.inv(srgb).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def with_profile(form, image, profile):
    return encoded(image, form, icc_profile=profile, **PLAIN[form])


@pytest.mark.parametrize("form", PLAIN)
def test_a_display_p3_picture_keeps_the_colours_that_were_seen(form):
    plain = pixels(encoded(SOFT, form, **PLAIN[form]))
    found = decoding.picture(with_profile(form, SOFT, P3))
    assert found.warning is None
    assert np.abs(np.asarray(found.image) - p3_to_srgb(plain)).max() <= 1.5
    assert np.abs(np.asarray(found.image) - plain).max() > 20


def test_known_colours_of_display_p3():
    # sRGB's corners in Display P3, as CSS Color 4's conversion has them, and a green outside sRGB
    pairs = {
        (234, 51, 35): (255, 0, 0), (117, 251, 76): (0, 255, 0), (0, 0, 245): (0, 0, 255),
        (128, 128, 128): (128, 128, 128), (255, 255, 255): (255, 255, 255), (0, 255, 0): (0, 255, 0),
    }  # fmt: skip
    image = Image.new("RGB", (len(pairs), 1))
    image.putdata(list(pairs))
    assert np.abs(pixels(with_profile("PNG", image, P3))[0] - list(pairs.values())).max() <= 3


@pytest.mark.parametrize("form", PLAIN)
def test_a_profile_that_is_srgb_changes_nothing(form):
    np.testing.assert_array_equal(pixels(with_profile(form, SOFT, SRGB)), pixels(encoded(SOFT, form, **PLAIN[form])))


def test_every_kind_of_picture_has_its_profile_applied():
    right = pixels(with_profile("PNG", SOFT, P3))
    opaque = SOFT.convert("RGBA")
    opaque.putpixel((0, 0), (1, 2, 3, 0))
    found = pixels(with_profile("PNG", opaque, P3))
    assert found[0, 0].tolist() == [255, 255, 255]  # white is the same in both
    np.testing.assert_array_equal(found[1:], right[1:])
    few = SOFT.quantize(32)
    np.testing.assert_array_equal(
        pixels(encoded(few, icc_profile=P3)), pixels(encoded(few.convert("RGB"), icc_profile=P3))
    )
    grey = SOFT.convert("L")
    dark = pixels(encoded(grey, icc_profile=icc_profile(b"GRAY", gamma=1.0)))
    assert (dark >= pixels(encoded(grey))).all()  # linear values are lighter in sRGB
    assert dark[..., 0].mean() > np.asarray(grey).mean() + 30
    assert np.abs(pixels(encoded(grey, icc_profile=icc_profile(gamma=1.0))) - dark).max() <= 1  # an RGB profile on grey
    np.testing.assert_array_equal(pixels(encoded(grey, icc_profile=SRGB)), pixels(encoded(grey)))


def test_a_profile_in_many_parts_and_after_the_header_of_the_picture_is_whole():
    photo, long = encoded(SOFT, "JPEG", **PLAIN["JPEG"]), P3 + bytes(150_000)
    parts = jpeg_of_profile(long)
    assert len(parts) == 3
    right = pixels(with_profile("JPEG", SOFT, P3))
    np.testing.assert_array_equal(pixels(with_segments(photo, *reversed(parts))), right)
    at = photo.index(b"\xff\xc4")
    np.testing.assert_array_equal(pixels(photo[:at] + b"".join(parts) + photo[at:]), right)


def png_with(body, name=b"iCCP"):
    data = encoded(SOFT)
    return data[:33] + chunk(name, body) + data[33:]


def packed(profile):
    return b"icc\0\0" + zlib.compress(profile)


NO_USE = {
    "rubbish": encoded(SOFT, icc_profile=b"no profile"),
    "rubbish after a header": encoded(SOFT, icc_profile=P3[:128] + b"\xff" * 300),
    "cut off": encoded(SOFT, icc_profile=P3[:200]),
    "of another packing": png_with(b"icc\0\0" + b"not deflate"),
    "too long": png_with(packed(P3 + bytes(colour.MAX_PROFILE))),
    "that unpacks to 40 MB": png_with(packed(P3 + bytes(40 << 20))),
    "for CMYK": encoded(SOFT, icc_profile=icc_profile(b"CMYK", kind=b"prtr")),
    "for grey": encoded(SOFT, icc_profile=icc_profile(b"GRAY")),
    "of Lab": encoded(SOFT, icc_profile=LAB),
    "that links two devices": encoded(SOFT, icc_profile=icc_profile(kind=b"link")),
    "of which a part is missing": with_segments(encoded(SOFT, "JPEG"), *jpeg_of_profile(P3 + bytes(70_000))[:1]),
}


@pytest.mark.parametrize("data", NO_USE.values(), ids=NO_USE)
def test_a_profile_that_is_no_use_is_passed_over_with_a_warning(data):
    found = decoding.picture(data)
    right = encoded(SOFT, "JPEG") if data.startswith(b"\xff\xd8") else encoded(SOFT)
    np.testing.assert_array_equal(np.asarray(found.image), pixels(right))
    assert found.warning is not None
    assert "sRGB" in found.warning


def chunk_of(name, *values):
    return chunk(name, struct.pack(f">{len(values)}I", *values))


PRIMARIES = chunk_of(b"cHRM", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
ADOBE = chunk_of(b"cHRM", 31_270, 32_900, 64_000, 33_000, 21_000, 71_000, 15_000, 6_000)
LINEAR = chunk_of(b"gAMA", 100_000)

OTHER_SPACES = {
    "linear": (LINEAR, SOFT),
    "linear grey": (LINEAR, SOFT.convert("L")),
    "gamma 1.8": (chunk_of(b"gAMA", 55_556), SOFT),
    "Adobe RGB": (chunk_of(b"gAMA", 45_470) + ADOBE, SOFT),
    "code points": (chunk(b"cICP", bytes((12, 13, 0, 1))), SOFT),
}
SRGB_SPACES = {
    "code points": (chunk(b"cICP", bytes((1, 13, 0, 1))), SOFT),
    "code points besides": (chunk(b"cICP", bytes((1, 13, 0, 1))) + LINEAR, SOFT),
    "ImageMagick's": (chunk_of(b"gAMA", 45_455) + PRIMARIES, SOFT),
    "gamma 2.2 and grey": (chunk_of(b"gAMA", 45_455) + ADOBE, SOFT.convert("L")),
    "an intent besides": (chunk(b"sRGB", b"\0") + LINEAR, SOFT),
    "no value": (chunk_of(b"gAMA", 0) + chunk(b"cHRM", b""), SOFT),
}


def with_chunks(chunks, image):
    data = encoded(image)
    return data[:33] + chunks + data[33:]


@pytest.mark.parametrize(("chunks", "image"), OTHER_SPACES.values(), ids=OTHER_SPACES)
def test_a_png_of_another_space_without_a_profile_is_read_as_srgb_with_a_warning(chunks, image):
    found = decoding.picture(with_chunks(chunks, image))
    np.testing.assert_array_equal(np.asarray(found.image), pixels(encoded(image)))
    assert found.warning is not None
    assert "gAMA" in found.warning


@pytest.mark.parametrize(("chunks", "image"), SRGB_SPACES.values(), ids=SRGB_SPACES)
def test_srgb_named_by_other_chunks_is_no_reason_to_warn(chunks, image):
    assert decoding.picture(with_chunks(chunks, image)).warning is None


def test_a_profile_counts_more_than_a_gamma():
    both = png_with(packed(P3))
    other = both[:33] + LINEAR + both[33:]
    found = decoding.picture(other)
    assert found.warning is None
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(decoding.picture(both).image))


def test_cmyk_without_a_profile_of_its_own_is_taken_by_its_numbers():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = decoding.picture(encoded(image, "JPEG", quality=95, icc_profile=P3))
    assert found.warning is not None
    assert pixels(encoded(image, "JPEG", quality=95)).tolist() == np.asarray(found.image).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_profiles_are_applied_or_passed_over(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        bad = np.frombuffer(P3, np.uint8).copy()
        bad[rng.integers(0, len(bad), 4)] = rng.integers(0, 256, 4)
        assert decoding.picture(encoded(SOFT, icc_profile=bad.tobytes())).image.size == SOFT.size


def test_a_mask_is_numbers_and_no_colours():
    grey = SOFT.convert("L")
    found = decoding.stencil(encoded(grey, icc_profile=icc_profile(b"GRAY", gamma=1.0)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(grey))


def test_nothing_but_pixels_is_left_of_a_file():
    exif = Image.Exif()
    exif[0x010E] = "secret"
    options = {"exif": exif, "icc_profile": P3, "xmp": b"<secret/>"}
    files = [
        encoded(SOFT, "JPEG", comment=b"secret", dpi=(300, 300), **options),
        encoded(SOFT, "WEBP", **options),
        encoded(SOFT, "PNG", **options, dpi=(300, 300), transparency=(1, 2, 3)),
        encoded(SOFT.quantize(8), "PNG", transparency=3),
    ]
    for data in files:
        for image in (decoding.picture(data).image, decoding.stencil(data)):
            assert image.info == {}
            assert dict(image.getexif()) == {}
            out = io.BytesIO()
            image.save(out, "JPEG")
            assert Image.open(io.BytesIO(out.getvalue())).info.keys() <= {
                "jfif", "jfif_version", "jfif_unit", "jfif_density"}  # fmt: skip
