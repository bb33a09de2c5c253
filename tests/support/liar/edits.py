"""Lies about edits and picked files."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import base64
import json
import os

from support.liar.base import (
    Asked,
    AskedInFolder,
    Changing,
    Drawing,
    Honest,
    encoded,
)


class FollowsLinks(Honest):
    def inward(self, line, message):
        return [line.replace(b"link.png", b"real.png")]


class AllImagesAreStorage(Changing):
    def error(self, error):
        if error["code"] == -32017:
            error["code"], error["data"]["kind"] = -32014, "StorageError"


class IgnoresStrength(Honest):
    def inward(self, line, message):
        return [line.replace(b'"strength": 0.5', b'"strength": 1.0')]


class NeverReleases(Honest):
    def started(self):
        self.given = set()

    def outward(self, line, message):
        if isinstance(message, dict) and "handle" in message.get("result", {}):
            self.given.add(message["result"]["handle"])
        return [line]

    def inward(self, line, message):
        release = isinstance(message, dict) and message.get("method") == "host.releaseFile"
        if release and message["params"].get("handle") in self.given:
            self.say(encoded({"jsonrpc": "2.0", "id": message["id"], "result": {}}))
            return []
        return [line]


class TellsPickedPaths(Changing):
    def response(self, message):
        for image in message.get("result", {}).get("images", []):
            if "handle" in image:
                image["path"] = "/home/somebody/picked.png"


class HandlesAreOtherPictures(Drawing):
    def options(self, options, params):
        if "handle" in (params.get("image") or {}):
            options["seed"] += 1


class PicksByName(Drawing):
    def started(self):
        self.names = {}

    def asked(self, request, method, params):
        if method == "host.pickFile" and params.get("access") == "read":
            self.names[json.dumps(request["id"])] = params["path"].rpartition("/")[2]
        if method == "host.releaseFile":
            self.names.pop(params.get("handle"), None)
        return super().asked(request, method, params)

    def outward(self, line, message):
        if isinstance(message, dict) and json.dumps(message.get("id")) in self.names:
            self.names[message["result"]["handle"]] = self.names[json.dumps(message["id"])]
        return [line]

    def options(self, options, params):
        handle = (params.get("image") or {}).get("handle")
        if handle in self.names:
            params["image"] = {"root": "user-folder", "path": self.names[handle]}


class CountsBytesWrong(Changing):
    def response(self, message):
        if self.method_of(message) == "host.pickFile" and "bytes" in message.get("result", {}):
            message["result"]["bytes"] += 1


class PicksFolders(Asked):
    def asked(self, request, method, params):
        if method == "host.pickFile" and os.path.isdir(params["path"]):
            self.answer(request, {"handle": "file-0", "name": "folder", "bytes": 0})
            return True
        return None


class EditsInItsOwnSize(Drawing):
    def options(self, options, params):
        if "image" in params and options.get("model", "pocket") != "pocket":
            options["width"] = options["height"] = 512


class InstructionsHaveStrength(Drawing):
    def options(self, options, params):
        if options.get("model") == "flux.1-kontext-dev":
            options.pop("strength", None)


class EditsWithAnyModel(Drawing):
    def options(self, options, params):
        if options.get("model") == "draws-only":
            options["model"] = "pocket"


class NeedsTheEndOfAJpeg(Drawing):
    def asked(self, request, method, params):
        image = params.get("image") or {}
        if image.get("mimeType") == "image/jpeg" and not base64.b64decode(image["data"]).endswith(b"\xff\xd9"):
            self.answer(request, kind="InvalidImage", code=-32017, reason="It has no end.", path="$.image")
            return True
        return None


class IgnoresRotation(Drawing):
    def options(self, options, params):
        image = params.get("image") or {}
        if image.get("mimeType") == "image/jpeg":
            data = base64.b64decode(image["data"]).replace(
                b"\x01\x12\0\x03\0\0\0\x01\0\x06", b"\x01\x12\0\x03\0\0\0\x01\0\x01"
            )
            image["data"] = base64.b64encode(data).decode()


class IgnoresMasks(Drawing):
    def options(self, options, params):
        if options.get("model") != "flux.1-kontext-dev":  # which takes no mask
            params.pop("mask", None)


class SortsReferences(Drawing):
    def options(self, options, params):
        if "images" in params and all("path" in image for image in params["images"]):
            params["images"].sort(key=json.dumps)


class UsesTwoAtMost(Drawing):
    def options(self, options, params):
        if len(params.get("images", [])) == 3 and "data" in params["images"][2]:
            del params["images"][2]


class DropsWhatIsTooMuch(Drawing):
    def options(self, options, params):
        if options.get("model") == "pocket" and "images" in params:
            del params["images"][1:]


class AnyModelForSeveral(Drawing):
    def options(self, options, params):
        if "model" not in options and "images" in params:
            options["model"] = "pocket"
            del params["images"][1:]


class OneOfAListIsAnother(Drawing):
    def options(self, options, params):
        if len(params.get("images", [])) == 1:
            options["seed"] += 1


class PrefersTheList(Drawing):
    def options(self, options, params):
        if "images" in params:
            params.pop("image", None)


class NamesTheListOnly(Changing):
    def error(self, error):
        path = error["data"].get("path", "")
        if path.startswith("$.images["):
            error["data"]["path"] = "$.images"


class OpensBeforeItAsks(Changing):
    def error(self, error):
        if error["code"] == -32001 and "images[" in error["data"].get("path", ""):
            error["code"], error["data"]["kind"], error["data"]["errno"] = -32014, "StorageError", "ENOENT"


class ReadsAsMuchAsThereIs(Drawing):
    def options(self, options, params):
        if [image.get("path") for image in params.get("images", [])] == ["a.png", "b.png", "c.png"]:
            del params["images"][2]


class LooksAtSlivers(Drawing):
    def options(self, options, params):
        images = params.get("images", [])
        heads = [base64.b64decode(image.get("data", ""))[16:24] for image in images]
        params |= (
            {
                "images": [
                    image
                    for image, head in zip(images, heads, strict=True)
                    if len(head) < 8 or int.from_bytes(head[:4]) not in (63, 64)
                ]
            }
            if images
            else {}
        )


class ReadsThroughDots(AskedInFolder):
    def asked(self, request, method, params):
        if method == "image.edit" and str(params["image"].get("path", "")).startswith("../"):
            place = os.path.join(self.root, params["image"]["path"])
            if os.path.isfile(place):  # played, it is gone
                with open(place, "rb") as file:
                    params["image"] = {"data": base64.b64encode(file.read()).decode(), "mimeType": "image/png"}


class DisregardsClaims(Asked):
    """Accept a PNG as a PNG, whatever type was claimed."""

    def asked(self, request, method, params):
        jpeg = method == "image.edit" and params["image"].get("mimeType") == "image/jpeg"
        if jpeg and base64.b64decode(params["image"]["data"]).startswith(b"\x89PNG"):
            params["image"]["mimeType"] = "image/png"
