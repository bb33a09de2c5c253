"""Final images as files: PNG, JPEG or WebP bytes, with what made them inside.

The same pixels and parameters give the same bytes: no times, no ids.

The parameters are one canonical JSON object. PNG carries it in an iTXt chunk ``locara:parameters``, JPEG and
WebP in XMP as ``locara:parameters`` (over 48 KiB as ``locara:parametersDeflate``, base64 of zlib, since a
JPEG has 64 KiB for XMP). All three have XMP with IPTC's DigitalSourceType ``trainedAlgorithmicMedia``, the
mark by which readers tell generated images, and name the software.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from typing import TYPE_CHECKING, Any, cast

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from locara_sidecar import __version__

if TYPE_CHECKING:
    from locara_sidecar.ipc.frames import EncodeSpec

_WRITERS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)  # else the first save imports all of Pillow's forty
_SOFTWARE = f"Locara {__version__}"
_KEYWORD = "locara:parameters"
_MAX_PLAIN = 48 * 1024  # bytes of XML-escaped JSON in an XMP packet
_MAX_INFLATED = 1024 * 1024
# JSON allows these raw; XML 1.0 does not, or not everybody's parser does.
_AWKWARD = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:locara="urn:locara:xmp:1.0/">
<xmp:CreatorTool>{software}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\
</Iptc4xmpExt:DigitalSourceType>
{parameters}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def encode(pixels: Image.Image, spec: EncodeSpec, seed: int, resolved: dict[str, Any] | None = None) -> bytes:
    """``pixels`` (RGB) as a file. What Pillow keeps beside them, a profile or a comment, is not written.

    :param seed: this image's own seed; it takes the place of ``options.seed`` in ``spec.metadata``, with ``count`` 1.
    :param resolved: options that the engine settled (what ``auto`` came to), likewise.
    """
    parameters = (
        None
        if spec.metadata is None
        else _canonical(_of_one_image(spec.metadata, {"seed": seed, "count": 1, **(resolved or {})}))
    )
    bare = Image.new("RGB", pixels.size)
    bare.paste(pixels)
    out = io.BytesIO()
    match spec.mime_type:
        case "image/png":
            info = PngImagePlugin.PngInfo()
            if parameters is not None:
                info.add_text("Software", _SOFTWARE)
                info.add_itxt(_KEYWORD, parameters)
                info.add_itxt("XML:com.adobe.xmp", _packet(""))
            bare.save(out, "PNG", pnginfo=info)
        case "image/jpeg":
            chroma = 0 if spec.quality >= 90 else 2  # full resolution where asked for: saturated edges show it
            embedded = _embedded(parameters)
            bare.save(out, "JPEG", quality=spec.quality, subsampling=chroma, optimize=True, **embedded)
        case "image/webp":
            bare.save(out, "WEBP", quality=spec.quality, method=4, **_embedded(parameters))
    return out.getvalue()


def read_parameters(data: bytes) -> dict[str, Any] | None:
    """The parameters inside an image that :func:`encode` made; None where there are none.

    Safe for any bytes: no XML parser sees them, and nothing large is unpacked.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            info = image.info
        text = info.get(_KEYWORD)
        if text is None:
            text = _from_packet(info.get("xmp"))
        found = None if text is None else json.loads(text)
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _escape(text: str) -> str:
    """For XML text. (``xml.sax.saxutils`` has this too, and imports an HTTP client.)"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _canonical(parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _AWKWARD.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _embedded(parameters: str | None) -> dict[str, bytes]:
    """Pillow's arguments for XMP and EXIF."""
    if parameters is None:
        return {}
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = _SOFTWARE
    body = _escape(parameters)
    if len(body.encode()) <= _MAX_PLAIN:
        element = f"<{_KEYWORD}>{body}</{_KEYWORD}>\n"
    else:
        packed = base64.b64encode(zlib.compress(parameters.encode(), 9)).decode()
        element = f"<{_KEYWORD}Deflate>{packed}</{_KEYWORD}Deflate>\n"
    return {"xmp": _packet(element).encode(), "exif": exif.tobytes()}


def _packet(parameters: str) -> str:
    return _XMP.format(software=_escape(_SOFTWARE), parameters=parameters)


def _from_packet(xmp: object) -> str | None:
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp if isinstance(xmp, str) else ""
    if found := re.search(rf"<{_KEYWORD}>([^<]*)</{_KEYWORD}>", text):
        return _unescape(found[1])
    if found := re.search(rf"<{_KEYWORD}Deflate>([^<]*)</{_KEYWORD}Deflate>", text):
        return zlib.decompressobj().decompress(base64.b64decode(found[1]), _MAX_INFLATED).decode()
    return None


def _of_one_image(metadata: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """``metadata`` of a whole call, as it is for one image with these ``options``."""
    return {**metadata, "options": {**metadata.get("options", {}), **options}}
