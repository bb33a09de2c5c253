"""Encode final images as PNG, JPEG or WebP, with the parameters that made them.

The same pixels and parameters give the same bytes: there are no timestamps and no ids.

The parameters are one canonical JSON object. PNG stores it in an iTXt chunk ``locara:parameters``; JPEG and WebP store
it in XMP as ``locara:parameters``, or above 48 KiB as ``locara:parametersDeflate`` (base64 of zlib), because XMP in a
JPEG is limited to 64 KiB. All three carry XMP with IPTC's DigitalSourceType ``trainedAlgorithmicMedia``, which marks
generated images, and name the software.
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

_WRITERS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)  # or the first save imports all of Pillow's plugins
_SOFTWARE = f"Locara {__version__}"
_KEYWORD = "locara:parameters"
_MAX_PLAIN = 48 * 1024  # bytes of XML-escaped JSON in an XMP packet
_MAX_INFLATED = 1024 * 1024
# JSON allows these unescaped; XML 1.0 or some of its parsers do not
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
    """Encode ``pixels`` (RGB) as a file, without anything that Pillow keeps beside them (profile, comment).

    :param seed: the seed of this image; replaces ``options.seed`` in ``spec.metadata``, and ``count`` becomes 1.
    :param resolved: options that the engine resolved from ``auto``; they replace those in ``spec.metadata``, too.
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
            chroma = 0 if spec.quality >= 90 else 2  # subsampling shows at saturated edges
            embedded = _embedded(parameters)
            bare.save(out, "JPEG", quality=spec.quality, subsampling=chroma, optimize=True, **embedded)
        case "image/webp":
            bare.save(out, "WEBP", quality=spec.quality, method=4, **_embedded(parameters))
    return out.getvalue()


def read_parameters(data: bytes) -> dict[str, Any] | None:
    """Return the parameters in an image that :func:`encode` made, or None if there are none.

    Safe for any input: it uses no XML parser and bounds how much it decompresses.
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
    """Escape for XML text. (``xml.sax.saxutils`` can do this too, but imports an HTTP client.)"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _canonical(parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _AWKWARD.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _embedded(parameters: str | None) -> dict[str, bytes]:
    """Return Pillow's arguments for XMP and EXIF."""
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
    """Return the ``metadata`` of a whole call as it applies to one image with these ``options``."""
    return {**metadata, "options": {**metadata.get("options", {}), **options}}
