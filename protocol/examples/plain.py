"""A host in Python, using only the standard library: python3 plain.py FOLDER [COMMAND …]"""

import base64
import json
import subprocess
import sys

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

sidecar = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def send(method, params, **more):
    message = {"jsonrpc": "2.0", **more, "method": method, "params": params}
    sidecar.stdin.write(json.dumps(message).encode() + b"\n")
    sidecar.stdin.flush()


def answer(number, on_message=lambda _: None):
    """Read on until request ``number`` is answered; messages of its channel come first."""
    for line in sidecar.stdout:
        message = json.loads(line)
        if "message" in message.get("params", {}):
            on_message(message["params"]["message"])
        elif message.get("id") == number:
            return message
    raise SystemExit("the sidecar is gone")


def show(message):
    if message["phase"] == "denoising" and message["step"] > 0:
        size = len(base64.b64decode(message["preview"]["data"])) if "preview" in message else 0
        print(f"step {message['step']} of {message['steps']}, preview of {size} bytes")


client = {"name": "example", "version": "1.0.0"}
grants = {"user-folder": FOLDER}
send("initialize", {"protocolVersion": 1, "clientInfo": client, "manifest": MANIFEST, "grants": grants}, id=1)
answer(1)
options = {"steps": 4, "output": {"path": "star.png"}}
send("image.generate", {"prompt": PROMPT, "channel": 1, "options": options}, id=2)
print("saved", answer(2, show)["result"]["images"][0]["path"])
send("image.generate", {"prompt": PROMPT, "channel": 2, "options": {"steps": 200}}, id=3)
cancelled = answer(3, lambda message: message["step"] == 1 and send("$/cancelRequest", {"id": 3}))
print("cancelled:", cancelled["error"]["data"]["kind"])
send("image.generate", {"prompt": PROMPT, "options": {"steps": 0}}, id=4)
error = answer(4)["error"]["data"]
print("error:", error["kind"], "at", error["path"])
sidecar.stdin.close()  # which ends the sidecar
sidecar.wait()
