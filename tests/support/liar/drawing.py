"""Lies about channels and pictures."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from support.liar.base import (
    Asked,
    AskedInFolder,
    Changing,
    Drawing,
    Honest,
    encoded,
)


class SkipsAnIndex(Changing):
    def frame(self, params):
        if params["index"] >= 3 + ("end" in params):
            params["index"] += 1


class EndsTwice(Honest):
    def outward(self, line, message):
        return [line, line] if isinstance(message, dict) and message.get("params", {}).get("end") else [line]


class EndCountsWrong(Changing):
    def frame(self, params):
        if params.get("end"):
            params["index"] -= 1


class EndsAfterTheResponse(Honest):
    end = None  # until the next line, which an end frame always has

    def outward(self, line, message):
        end, self.end = self.end, None
        out = [line] if end is None else [end, line]
        if isinstance(message, dict) and message.get("params", {}).get("end"):
            self.end = out.pop()
        elif isinstance(message, dict) and self.method_of(message) == "image.generate":
            out.reverse()
        return out


class SpeaksAfterTheResponse(Honest):
    """Repeat a call's first message after its answer, on its own channel, because others may be in use by then."""

    def started(self):
        self.first = {}  # by job

    def outward(self, line, message):
        if not isinstance(message, dict):
            return [line]
        params = message.get("params", {})
        if params.get("index") == 0 and "message" in params:
            self.first.setdefault(params["message"].get("jobId"), line)
        again = self.first.get(message.get("result", {}).get("jobId")) if "result" in message else None
        return [line, again] if again and self.method_of(message) == "image.generate" else [line]


class SpeaksWithoutAChannel(Honest):
    def outward(self, line, message):
        if isinstance(message, dict) and message.get("params", {}).get("index") == 0:
            self.first = message
        if isinstance(message, dict) and self.method_of(message) == "image.generate" and not hasattr(self, "first"):
            frame = {
                "channel": 0,
                "index": 0,
                "message": {"jobId": "job-1", "phase": "saving", "image": 1, "images": 1},
            }
            frame["message"] |= {"step": 1, "steps": 1, "progress": 1, "elapsedMs": 1}
            return [encoded({"jsonrpc": "2.0", "method": "DiffusionStep", "params": frame}), line]
        return [line]


class LosesStepsUnnoticed(Changing):
    """Omit a step and renumber the rest."""

    def started(self):
        self.left_out = {}

    def outward(self, line, message):
        if isinstance(message, dict) and "method" in message:
            params = message["params"]
            if params["index"] == 0:
                self.left_out[params["channel"]] = 0
            if params.get("message", {}).get("step") == 2 and params["message"]["phase"] == "denoising":
                self.left_out[params["channel"]] += 1
                return []
            params["index"] -= self.left_out[params["channel"]]
            return [encoded(message)]
        return [line]


class ProgressFalls(Changing):
    def frame(self, params):
        if params.get("message", {}).get("phase") == "decoding":
            params["message"]["progress"] = 0.01


class ProgressNeverEnds(Changing):
    def frame(self, params):
        if "message" in params:
            params["message"]["progress"] = min(0.99, params["message"]["progress"])


class PreviewsChangeThePicture(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            options = message["params"].get("options") or {}
            if (options.get("preview") or {}).get("mode") == "linear":
                options["seed"] += 1
                return [encoded(message)]
        return [line]


class DoesNotReproduce(Honest):
    """Use a new seed each time, but report the requested one."""

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            options = message["params"].get("options") or {}
            if "quantization" in options:  # all options are there: these are a result's own parameters
                options["seed"] = (options["seed"] + 1) % 2**32
                return [encoded(message)]
        return [line]


class AlwaysTheSameSeed(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            options = message["params"].get("options")
            if isinstance(options, dict):
                options.setdefault("seed", 7)
                return [encoded(message)]
        return [line]


class WrongDigests(Changing):
    def response(self, message):
        for image in message.get("result", {}).get("images", []):
            image["sha256"] = "0" * 64


class KnowsNumbersOnly(Asked):
    """Reject ``__CHANNEL__:`` strings."""

    def asked(self, request, method, params):
        if isinstance(params.get("channel"), str) and "id" in request:
            self.answer(request, kind="InvalidParams", code=-32602, path="$.channel")
            return True
        return None


class TrueIsNoChannel(Asked):
    def asked(self, request, method, params):
        if params.get("channel") is True:
            params.pop("channel")


class ChannelsAreUsedOnce(Honest):
    """Send nothing but the end frame on a channel that was used before."""

    def started(self):
        self.used, self.ended = set(), set()

    def outward(self, line, message):
        params = message.get("params", {}) if isinstance(message, dict) and "method" in message else {}
        if params.get("channel") in self.ended:
            if not params.get("end"):
                return []
            params["index"] = 0
            return [encoded(message)]
        if params.get("end"):
            self.ended.add(params["channel"])
        return [line]


class LargeMessages(Changing):
    def frame(self, params):
        if "message" in params:
            params["message"]["_pad"] = "x" * 9000


class StopsWhenNobodyReads(Honest):
    """Only until its host is gone."""

    left = False

    def write(self, data):
        assert sys.platform != "win32"
        while data:
            self.writes = time.monotonic()
            if not select.select([], [1], [], 0.2)[1]:
                if not self.left:
                    self.child.send_signal(signal.SIGSTOP)
                if self.left:  # by now
                    self.child.send_signal(signal.SIGCONT)
                select.select([], [1], [])
                self.child.send_signal(signal.SIGCONT)
            data = data[os.write(1, data[:4096]) :]
        self.writes = None

    def at_end_of_input(self):
        self.left = True
        self.child.send_signal(signal.SIGCONT)
        super().at_end_of_input()


class AttachesAtTheStart(Changing):
    def started(self):
        self.attached = set()

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "jobs.attach":
            self.attached.add(message["params"].get("channel"))
        return [line]

    def frame(self, params):
        if params["channel"] in self.attached and params["index"] == 0 and "message" in params:
            params["message"]["step"] = 0


class AlwaysTheFirstImage(Changing):
    def frame(self, params):
        if "message" in params and "image" in params["message"]:
            params["message"]["image"] = 1


class OtherJobIds(Changing):
    def frame(self, params):
        if "jobId" in params.get("message", {}):
            params["message"]["jobId"] = "job-0"


class PreviewsOfOnePixel(Changing):
    def frame(self, params):
        if "preview" in params.get("message", {}):
            params["message"]["preview"]["width"] = 1


class AlwaysPng(Drawing):
    def options(self, options, params):
        output = options.get("output", {})
        if "path" not in output and output.get("mimeType") in ("image/jpeg", "image/webp"):
            output.pop("mimeType")


class AlwaysOverwrites(Drawing):
    def options(self, options, params):
        if "onConflict" in options.get("output", {}):
            options["output"]["onConflict"] = "overwrite"


class MakesPathsFit(Drawing):
    def options(self, options, params):
        output = options.get("output", {})
        if output.get("path") == "../outside.png":
            output["path"] = "outside.png"


class ClampsSteps(Drawing):
    def options(self, options, params):
        if options.get("steps") == 0 and options.get("model") != "nobody":
            options["steps"] = 1


class SeedsBeginAgain(Drawing):
    def options(self, options, params):
        if options.get("count") == 2 and options.get("seed") == 2**32 - 1:
            options["seed"] = 0


class NearestIsOffTheGrid(Changing):
    def error(self, error):
        if "nearest" in error["data"]:
            error["data"]["nearest"] += 1


class CapabilitiesFirst(Changing):
    def started(self):
        self.denied = set()  # the calls that must not be made, whatever else is wrong with them

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("params", {}).get("options", {}).get("model") == "nobody":
            self.denied.add(json.dumps(message["id"]))
        return [line]

    def response(self, message):
        error = message.get("error", {"data": {}})
        if error["data"].get("path") == "$.options.steps" and json.dumps(message["id"]) in self.denied:
            error["code"] = -32001
            denied = {"capability": "model", "resource": "nobody", "reason": "notDeclared", "declare": {}}
            error["data"] = {"kind": "CapabilityDenied", "retryable": False} | denied


class NullIsAValue(Drawing):
    def options(self, options, params):
        if options.get("negativePrompt", "") is None:
            options["negativePrompt"] = ""
            options["seed"] += 1


class TakesLargeInlineImages(Drawing):
    def options(self, options, params):
        if options.get("count") == 2 and options.get("model") == "sd3.5-medium":
            options["count"] = 1


class PreviewsOfEveryStep(Drawing):
    def options(self, options, params):
        if "everySteps" in (options.get("preview") or {}):
            options["preview"]["everySteps"] = 1


class FindsAPreview(Drawing):
    def options(self, options, params):
        params["prompt"] = params["prompt"].replace("fake:nopreview", "")


class MakesNoFolders(Drawing):
    def options(self, options, params):
        output = options.get("output", {})
        path = output.get("path", "")
        if "/" in path and path[0].isalnum() and ".." not in path:
            output["path"] = output["path"].rpartition("/")[2]


class TakesOddNames(Drawing):
    def options(self, options, params):
        output = options.get("output", {})
        if "con." in output.get("path", ""):
            output["path"] = output["path"].replace("con.", "icon.")


class AlwaysWritesMetadata(Drawing):
    def options(self, options, params):
        options.get("output", {}).pop("metadata", None)


class SavesThroughLinks(AskedInFolder):
    def asked(self, request, method, params):
        if method == "image.generate":
            place = os.path.join(self.root, params["options"]["output"]["path"])
            if os.path.islink(os.path.dirname(place)):
                with open(place, "wb") as file:
                    file.write(b"a picture")


class TidiesPrompts(Changing):
    def response(self, message):
        if "parameters" in message.get("result", {}):
            parameters = message["result"]["parameters"]
            parameters["prompt"] = " ".join(parameters["prompt"].split())


class KeepsMetadataOfJpegs(Drawing):
    def options(self, options, params):
        output = options.get("output") or {}
        if output.get("mimeType") == "image/jpeg" and output.get("metadata") == "none":
            output["metadata"] = "full"
