"""A host in Python, using the client that comes with the sidecar: python3 client.py FOLDER [COMMAND …]"""

import base64
import sys

from locara_protocol.client import RemoteError, Sidecar

FOLDER, COMMAND = sys.argv[1], sys.argv[2:] or ["locara-sidecar", "serve"]
MANIFEST = {
    "schema": "locara/v1",
    "name": "example",
    "publisher": "example",
    "version": "1.0.0",
    "modalities": ["text-to-image"],
    "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}},
}
PROMPT = "a large yellow star in the center of a blue background"

with Sidecar(COMMAND) as sidecar:
    sidecar.initialize(manifest=MANIFEST, grants={"user-folder": FOLDER})

    options = {"steps": 4, "output": {"path": "star.png"}}
    call = sidecar.start("image.generate", {"prompt": PROMPT, "options": options}, stream=True)
    for message in call.messages():
        if message["phase"] == "denoising" and message["step"] > 0:
            size = len(base64.b64decode(message["preview"]["data"])) if "preview" in message else 0
            print(f"step {message['step']} of {message['steps']}, preview of {size} bytes")
    print("saved", call.result()["images"][0]["path"])

    call = sidecar.start("image.generate", {"prompt": PROMPT, "options": {"steps": 200}}, stream=True)
    for message in call.messages():
        if message["step"] == 1:
            call.cancel()
    try:
        call.result()
    except RemoteError as error:
        print("cancelled:", error.kind)

    try:
        sidecar.call("image.generate", {"prompt": PROMPT, "options": {"steps": 0}})
    except RemoteError as error:
        print("error:", error.kind, "at", error.data["path"])
