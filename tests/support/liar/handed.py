"""Lies about picked files that are sent without a path."""

import base64

from support.liar.base import Asked, Changing, Drawing


class SentFilesAreOtherPictures(Drawing):
    def started(self):
        self.sent = set()

    def asked(self, request, method, params):
        if method == "host.pickFile" and "data" in params:
            self.sent.add(request["id"])
        return super().asked(request, method, params)

    def outward(self, line, message):
        if isinstance(message, dict) and message.get("id") in self.sent and "result" in message:
            self.sent.add(message["result"]["handle"])
        return [line]

    def options(self, options, params):
        if (params.get("image") or {}).get("handle") in self.sent:
            options["seed"] += 1


class TakesNoDescriptors(Asked):
    """Claim that no descriptor was sent."""

    def asked(self, request, method, params):
        if method == "host.pickFile" and params.get("access") == "read" and "descriptor" in params:
            params["descriptor"] = "another"


class WritesMoreThanItTells(Changing):
    """Write more to the file than the picture that is reported."""

    def response(self, message):
        for image in message.get("result", {}).get("images", []):
            if "handle" in image and "data" in image:
                image["data"] = base64.b64encode(base64.b64decode(image["data"])[:-1]).decode()


class DescriptorsAreForEver(Asked):
    def started(self):
        self.known = set()

    def asked(self, request, method, params):
        if method != "host.pickFile" or "descriptor" not in params or params.get("access") != "read":
            return None
        if params["descriptor"] in self.known:
            self.answer(request, {"handle": "file-0", "name": params["name"], "bytes": 1})
            return True
        self.known.add(params["descriptor"])
        return None


class BlamesTheDisk(Changing):
    def response(self, message):
        data = message.get("error", {}).get("data", {})
        if data.get("path") == "$.descriptor" and "errno" in data:
            data["errno"] = "EIO"


class PicksTwice(Asked):
    """If a file is named in two ways, accept the first."""

    def asked(self, request, method, params):
        if method == "host.pickFile" and "path" in params:
            for other in ("data", "descriptor", "name"):
                params.pop(other, None)
