"""Calls of ``image.edit`` as a host makes them: pictures, masks, and the two ways to name them."""

import base64
import io

from PIL import Image

from support.host import decoded

MEDIUM, KONTEXT = "sd3.5-medium", "flux.1-kontext-dev"
MODALITIES = ("text-to-image", "image-to-image", "image-text-to-image")
RED = (200, 30, 40)


def png(size=(256, 256), colour=RED, kind="PNG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **options)
    return out.getvalue()


def mask(size=(256, 256), box=(64, 64, 192, 192)):
    """Return a mask that is white inside the box, which is repainted."""
    picture = Image.new("L", size, 0)
    picture.paste(255, box)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def sent(data, kind="image/png"):
    return {"data": base64.b64encode(data).decode(), "mimeType": kind}


def named(path, root="user-folder"):
    return {"root": root, "path": path}


def pixels(image):
    with Image.open(io.BytesIO(decoded(image))) as picture:
        return picture.convert("RGB")


def begin(host, prompt="a lake", image=None, mask=None, **options):
    params = {"prompt": prompt, "image": image or named("in.png"), "options": options}
    if mask is not None:
        params["mask"] = mask
    return host.start("image.edit", params, stream=True)


def edit(host, *arguments, **more):
    return begin(host, *arguments, **more).result(30)
