"""Files that say how they were made, and that are identical for identical images."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from locara_sidecar.engine.images import encode, read_parameters
from locara_sidecar.ipc.frames import EncodeSpec

MIMES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
PICTURE = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


def make(mime="image/png", metadata=None, quality=90, seed=7):
    return encode(PICTURE, EncodeSpec(mime_type=mime, quality=quality, metadata=metadata), seed)


PROMPTS = [
    "a lighthouse",
    'tags <x> & "quotes" \' ]]> <!-- --> </locara:parameters> &lt; &#10;',
    "lines\r\nand\ttabs, NUL \0 and \x1b, \x7f \x85 \u2028 \ufffe \uffff",
    "日本語 العربية 🏝️ e\u0301",
    " leading and trailing  ",
    "\ud83c",
    "{braces} %s $x",
]


@pytest.mark.parametrize("mime", MIMES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_parameters_come_back_as_they_went_in(mime, prompt):
    data = make(mime, {"prompt": prompt, "options": {"guidance": 4.5, "seed": 0, "count": 4}}, seed=9)
    assert read_parameters(data) == {"prompt": prompt, "options": {"guidance": 4.5, "seed": 9, "count": 1}}


@pytest.mark.parametrize("mime", MIMES)
@pytest.mark.parametrize("filler", ["&", "\x01", "🏝", '"', "\\", "\x80"])
def test_the_longest_prompts_fit(mime, filler):
    text = filler * (16 * 1024 // len(filler.encode()))
    metadata = {"prompt": text, "negativePrompt": text}
    assert read_parameters(make(mime, metadata)) == {**metadata, "options": {"seed": 7, "count": 1}}


def xmp(image):
    packet = image.info["xmp"]
    return packet.decode() if isinstance(packet, bytes) else packet


@pytest.mark.parametrize("mime", MIMES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_xmp_is_well_formed_whatever_the_prompt(mime, prompt):
    with Image.open(io.BytesIO(make(mime, {"prompt": prompt}))) as image:
        ElementTree.fromstring(xmp(image))


@pytest.mark.parametrize("mime", MIMES)
def test_a_file_is_what_it_says_and_marked_as_generated(mime):
    with Image.open(io.BytesIO(make(mime, {"prompt": "x"}))) as image:
        assert image.format == MIMES[mime]
        assert image.size == PICTURE.size
        image.load()
        packet = {element.tag.rpartition("}")[2]: element.text for element in ElementTree.fromstring(xmp(image)).iter()}
        software = image.info["Software"] if mime == "image/png" else image.getexif()[0x0131]
    assert packet["DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert packet["CreatorTool"] == software
    assert software.startswith("Locara ")


@pytest.mark.parametrize("mime", MIMES)
def test_the_same_image_is_the_same_bytes(mime):
    assert make(mime, {"a": 1, "b": 2}) == make(mime, {"b": 2, "a": 1})


@pytest.mark.parametrize("mime", MIMES)
def test_what_an_image_carries_beside_its_pixels_stays_out_of_the_file(mime):
    carrying = PICTURE.copy()
    carrying.info |= {"comment": b"secret", "icc_profile": b"secret", "exif": b"Exif\0\0secret", "dpi": (1, 1)}
    spec = EncodeSpec(mime_type=mime, quality=90, metadata=None)
    assert encode(carrying, spec, 7) == encode(PICTURE, spec, 7)


@pytest.mark.parametrize("mime", MIMES)
def test_without_metadata_nothing_is_told(mime):
    data = make(mime)
    assert read_parameters(data) is None
    assert b"ocara" not in data


def test_png_keeps_every_pixel():
    with Image.open(io.BytesIO(make())) as image:
        assert image.tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("mime", ["image/jpeg", "image/webp"])
def test_quality_is_honoured(mime):
    noisy = Image.effect_noise((128, 128), 60).convert("RGB")
    sizes = [len(encode(noisy, EncodeSpec(mime_type=mime, quality=q, metadata=None), 1)) for q in (10, 60, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


@pytest.mark.parametrize("data", [b"", b"no image", make()[:40], make("image/jpeg", {"a": 1})[:300]])
def test_other_bytes_have_no_parameters(data):
    assert read_parameters(data) is None
