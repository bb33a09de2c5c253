"""Photos as cameras, phones and programs write them are accepted; missing data is noticed."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import decoding
from support.image_files import encoded, segment, with_segments

SOFT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)).resize(
    (136, 104), Image.Resampling.BICUBIC
)
PHOTO = encoded(SOFT, "JPEG", quality=90)


def pixels(data):
    return np.asarray(decoding.picture(data).image).astype(int)


def index_of_pictures(*entries, order="II"):
    """Return an MPF segment (CIPA DC-007); ``entries`` are the size and offset of each picture."""
    mark = "<" if order == "II" else ">"
    table = b"".join(struct.pack(mark + "IIIHH", 0x030000, size, at, 0, 0) for size, at in entries)
    count = struct.pack(mark + "I", len(entries))
    directory = struct.pack(mark + "H", 3)
    directory += struct.pack(mark + "HHI4s", 0xB000, 7, 4, b"0100")
    directory += struct.pack(mark + "HHI4s", 0xB001, 4, 1, count)
    directory += struct.pack(mark + "HHII", 0xB002, 7, len(table), 50) + bytes(4)
    head = order.encode() + struct.pack(mark + "HI", 42, 8)
    return b"MPF\0" + head + directory + table


INDEX = index_of_pictures((len(PHOTO), 0), (900, len(PHOTO)))
GOOD = {
    "with a smaller copy": with_segments(PHOTO, segment(0xE2, INDEX)) + PHOTO,
    "whose smaller copy was cut off": with_segments(PHOTO, segment(0xE2, INDEX)),
    "whose index points past its segment": with_segments(PHOTO, segment(0xE2, INDEX[:-12])),
    "whose index is of the other byte order": with_segments(
        PHOTO, segment(0xE2, index_of_pictures((1, 2), order="MM"))),
    "whose index is empty": with_segments(PHOTO, segment(0xE2, b"MPF\0")),
    "whose index is none": with_segments(PHOTO, segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")),
    "with an empty EXIF segment": with_segments(PHOTO, segment(0xE1, b"Exif\0\0")),
    "with an EXIF segment that is cut off": with_segments(
        PHOTO, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01")),
    "with an EXIF segment that points into itself": with_segments(
        PHOTO, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + b"\x08\0\0\0")),
    "with two EXIF segments": with_segments(PHOTO, *[segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0")] * 2),
    "with 300 comments": with_segments(PHOTO, *[segment(0xFE, b"x" * 60000)] * 300),
    "with a broken resource block": with_segments(PHOTO, segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2a")),
    "with a short Adobe segment": with_segments(PHOTO, segment(0xEE, b"Adobe")),
    "with a short JFIF segment": with_segments(PHOTO, segment(0xE0, b"JFIF\0\1")),
    "with markers that are padded": with_segments(PHOTO, b"\xff" * 9, segment(0xFE, b"x"), b"\xff\xff"),
    "with rubbish between its segments": with_segments(PHOTO, segment(0xFE, b"x"), b"\0\0 rubbish \xff\0"),
    "with bytes after its end": PHOTO + bytes(70000) + b"SEFH",
    "with its beginning twice": PHOTO[:2] + PHOTO,
    "without the mark of its end": PHOTO[:-2],
    "with half the mark of its end": PHOTO[:-1],
    "with zeros for the mark of its end": PHOTO[:-2] + bytes(1000),
}  # fmt: skip


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_photo_is_its_pixels_whatever_is_beside_them(data):
    np.testing.assert_array_equal(pixels(data), pixels(PHOTO))
    assert np.abs(pixels(data) - np.asarray(SOFT)).mean() < 4


KINDS = {
    "progressive": {"progressive": True},
    "with full colour": {"subsampling": 0},
    "with half the colour": {"subsampling": 1},
    "with restarts": {"restart_marker_rows": 1},
    "optimized": {"optimize": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_is_taken_with_and_without_the_mark_of_its_end(options):
    data = encoded(SOFT, "JPEG", quality=95, **options)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    np.testing.assert_array_equal(pixels(data), pixels(data[:-2]))


@pytest.mark.parametrize("cut", [3, 4, 8, 40, 400, 2000])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_photo_that_lacks_more_than_the_mark_of_its_end_is_refused(options, cut):
    data = encoded(SOFT, "JPEG", quality=95, **options)
    with pytest.raises(decoding.ImageError) as caught:
        decoding.picture(data[: -2 - cut])
    assert "incomplete" in caught.value.reason


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_cmyk_as_adobe_writes_it(transform):
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    at = data.index(b"Adobe") + 11
    data = data[:at] + bytes([transform]) + data[at + 1 :]
    found = pixels(data)[8, 8]
    if transform == 0:
        assert (found[0] > 240, found[1] < 15, found[2] < 15) == (True, True, True)
    else:  # the same numbers read as luma and chroma: still a picture, but a different one
        assert found.tolist() != pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))[8, 8].tolist()


def test_rgb_without_a_transform_keeps_its_colours():
    data = encoded(SOFT, "JPEG", quality=95, keep_rgb=True)
    assert b"Adobe" in data
    assert np.abs(pixels(data) - np.asarray(SOFT)).mean() < 4


def test_grey_is_taken():
    assert np.abs(pixels(encoded(SOFT.convert("L"), "JPEG"))[..., 0] - np.asarray(SOFT.convert("L"))).mean() < 4


BAD = {
    "nothing but a beginning": b"\xff\xd8\xff",
    "an end at once": b"\xff\xd8\xff\xd9",
    "a segment longer than the file": PHOTO[:100],
    "a segment of no length": b"\xff\xd8\xff\xe0\0\0",
    "12 bits": PHOTO.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "no tables": PHOTO[:2] + PHOTO[PHOTO.index(b"\xff\xc0") :],
    "two channels": PHOTO.replace(b"\xff\xc0\0\x11\x08\0\x68\0\x88\3", b"\xff\xc0\0\x11\x08\0\x68\0\x88\2"),
    "no pixels": PHOTO.replace(b"\x08\0\x68\0\x88\3", b"\x08\0\0\0\0\3"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_words(data):
    with pytest.raises(decoding.ImageError) as caught:
        decoding.picture(data)
    assert "broken" in caught.value.reason


def scans(count):
    """Return the photo with ``count`` more scans, each of which a decoder would have to go through."""
    at = PHOTO.index(b"\xff\xda")
    return PHOTO[: -len(decoding.jpeg.END)] + PHOTO[at : at + 14] * count + decoding.jpeg.END


def test_a_jpeg_of_very_many_scans_is_refused_before_one_is_decoded(monkeypatch):
    assert decoding.jpeg.parse(scans(decoding.jpeg.MAX_SCANS - 1)).data
    monkeypatch.setattr(decoding, "_opened", None)
    with pytest.raises(decoding.ImageError, match="it has 3001 scans; at most 64 are allowed"):
        decoding.picture(scans(3000))


def test_what_lies_behind_a_jpegs_end_has_no_scans_of_its():
    many = PHOTO * (2 * decoding.jpeg.MAX_SCANS)  # some cameras append further pictures
    assert np.array_equal(pixels(many), pixels(PHOTO))


def test_a_progressive_jpeg_is_taken():
    assert pixels(encoded(SOFT, "JPEG", quality=90, progressive=True)).shape == (104, 136, 3)
