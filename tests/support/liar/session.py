"""Lies about errors, sessions, jobs and cancelling."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
import sys

from support.liar.base import (
    Asked,
    Changing,
    Honest,
    OpensWithAnother,
    Renamed,
    encoded,
)


class ResultsLackAMember(Changing):
    def response(self, message):
        if "result" in message:
            message["result"].pop("uptimeMs", None)


class FramesLackThePhase(Changing):
    """Only the last frame of a picture of two steps, because no check looks at the phases of such a picture."""

    def frame(self, params):
        message = params.get("message", {})
        if message.get("phase") == "saving" and message["steps"] == 2:
            del message["phase"]


class ErrorsWithoutKind(Changing):
    def error(self, error):
        if error["data"].get("resource") == "sd3.5-medium":
            error["data"].pop("kind")


class KindsDoNotFitCodes(Changing):
    def error(self, error):
        if error["code"] == -32601:
            error["data"]["kind"] = "InvalidParams"
            error["data"]["path"] = "$"


class ErrorsWithoutPath(Changing):
    """Omit the path of a member whose name is not an identifier."""

    def error(self, error):
        if error["data"].get("path") == '$.options["odd name"]':
            error["data"].pop("path")


class NothingIsRetryable(Changing):
    def error(self, error):
        error["data"]["retryable"] = False


class CrashesAreInternal(Changing):
    def error(self, error):
        if error["code"] == -32012:
            error["code"], error["data"]["kind"], error["data"]["retryable"] = -32603, "InternalError", False


class DenialsDoNotSayWhatToDeclare(Changing):
    def error(self, error):
        error["data"].pop("declare", None)


class ServesBeforeInitialize(Changing):
    tried = False  # to open a session

    def inward(self, line, message):
        self.tried |= isinstance(message, dict) and message.get("method") == "initialize"
        return [line]

    def response(self, message):
        refused = message.get("error", {}).get("code") == -32002
        if refused and not self.tried and self.method_of(message) == "jobs.list":
            del message["error"]
            message["result"] = {"jobs": []}


class GrantsWithoutManifest(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "initialize":
            params = message["params"]
            if not params.get("manifest") and "--manifest" not in sys.argv:
                params["manifest"] = {
                    "schema": "locara/v1",
                    "name": "conformance",
                    "publisher": "locara",
                    "version": "1.0.0",
                    "modalities": ["text-to-image"],
                    "capabilities": {"models": ["pocket"]},
                }
                return [encoded(message)]
        return [line]


class LacksAMethod(Changing):
    def response(self, message):
        if "result" in message and "capabilities" in message["result"]:
            message["result"]["capabilities"]["methods"].remove("jobs.attach")


class CancelledCallsAreNeverAnswered(Honest):
    """Except the first of many calls."""

    def outward(self, line, message):
        many = sum(calls.count("image.generate") for calls in list(self.methods.values())) >= 8
        return [] if many and message.get("error", {}).get("code") == -32800 else [line]


class KnowsOneSpellingOfCancel(Honest):
    def inward(self, line, message):
        name = message.get("method") if isinstance(message, dict) else None
        return [] if name == "notifications/cancelled" else [line]


class CancelsWhatRuns(Honest):
    """Treat any cancel as a cancel of the latest call."""

    latest = None

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            self.latest = message["id"]
        if isinstance(message, dict) and message.get("method") == "$/cancelRequest" and self.latest is not None:
            message["params"]["id"] = self.latest
            return [encoded(message)]
        return [line]


class CancelTellsNoImages(Changing):
    def error(self, error):
        if error["code"] == -32800:
            error["data"]["images"] = []


class CancelsTooLate(Honest):
    """Handle cancels only between jobs."""

    def inward(self, line, message):
        return [] if isinstance(message, dict) and message.get("method") == "$/cancelRequest" else [line]


class ForgetsEndedJobs(Changing):
    def response(self, message):
        if "result" in message and "jobs" in message["result"] and isinstance(message["result"]["jobs"], list):
            message["result"]["jobs"] = [
                one for one in message["result"]["jobs"] if one["state"] in ("running", "queued")
            ]


class JobsWithoutTheirLast(Changing):
    def response(self, message):
        for job in message.get("result", {}).get("jobs", []):
            if isinstance(job, dict):
                job.get("last", {}).pop("preview", None)


class JobsWithoutTheirPrompt(Changing):
    def response(self, message):
        for job in message.get("result", {}).get("jobs", []):
            if isinstance(job, dict):
                job.pop("prompt", None)


class JobResultsDiffer(Changing):
    def response(self, message):
        if self.method_of(message) == "jobs.result" and "images" in message.get("result", {}):
            message["result"]["peakMemoryBytes"] += 1


class AnswersEarly(Changing):
    def response(self, message):
        if self.method_of(message) == "jobs.result" and message.get("error", {}).get("code") == -32600:
            del message["error"]
            message["result"] = {}


class NamesNoJob(Changing):
    def error(self, error):
        if error["data"].get("path") == "$.jobId":
            error["data"]["path"] = "$"


class SpeaksAnotherVersion(Changing):
    def response(self, message):
        if self.method_of(message) == "initialize" and "result" in message:
            message["result"]["protocolVersion"] = 2


class HasNotAllMethods(Asked):
    def asked(self, request, method, params):
        if method == "models.gc":
            self.answer(request, kind="MethodNotFound", code=-32601)
            return True
        return None


class OpensAgain(Honest):
    opened = None

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "shutdown":
            self.opened = None
        again = isinstance(message, dict) and message.get("method") == "initialize" and self.opened is not None
        if again and "protocolVersion" in message["params"]:
            return self.answer(message, self.opened)
        return [line]

    def outward(self, line, message):
        if isinstance(message, dict) and self.method_of(message) == "initialize" and "result" in message:
            self.opened = message["result"]
        return [line]


class DoesNotTellItsVersions(Changing):
    def error(self, error):
        if error["code"] == -32016:
            error["data"]["supported"] = []


class ForgivesTypos(OpensWithAnother):
    def change(self, manifest):
        manifest.pop("modalitys", None)


class WarnsOfNothing(Changing):
    def response(self, message):
        if self.method_of(message) == "initialize" and "result" in message:
            message["result"]["app"]["warnings"] = []


class AlwaysIdle(Changing):
    def response(self, message):
        if self.method_of(message) == "ping" and "result" in message:
            message["result"]["engine"]["state"] = "idle"


class DocumentsLess(Changing):
    def response(self, message):
        if self.method_of(message) == "rpc.discover":
            message["result"]["methods"] = [one for one in message["result"]["methods"] if one["name"] != "ping"]


class TakesAnyToken(Asked):
    def asked(self, request, method, params):
        if method == "initialize" and isinstance(params.get("auth"), dict):
            params["auth"]["token"] = "x"


class ConfinedFromTheStart(Changing):
    def response(self, message):
        if self.method_of(message) == "system.info":
            message["result"]["sandbox"]["enforced"] = True


class ConfinedThoughOpen(Changing):
    def response(self, message):
        if self.method_of(message) == "system.info" and (details := message["result"]["sandbox"]["details"]):
            message["result"]["sandbox"]["enforced"] = True
            details["signals"] = "open"


class TakesWideManifests(Honest):
    def inward(self, line, message):
        if b'"$notes"' in line:
            wide = json.loads(line)
            wide["params"]["manifest"].pop("$notes")
            return [encoded(wide)]
        return [line]


class RefusedCallsAreJobs(Changing):
    refused = False

    def response(self, message):
        if self.method_of(message) == "image.generate" and message.get("error", {}).get("code") in (-32602, -32001):
            self.refused = True
        if self.method_of(message) == "jobs.list" and self.refused:
            job = {"jobId": "job-0", "method": "image.generate", "state": "failed", "requestId": 1}
            message["result"]["jobs"].append(job)


class BlamesTheJob(Changing):
    def started(self):
        self.whole = set()  # the attachments that name both

    def inward(self, line, message):
        attach = isinstance(message, dict) and message.get("method") == "jobs.attach"
        channel = message["params"].get("channel") if attach else None
        if attach and "jobId" in message["params"] and type(channel) is int and 0 <= channel < 2**32:
            self.whole.add(json.dumps(message["id"]))
        return [line]

    def response(self, message):
        refused = message.get("error", {}).get("code") == -32602 and self.method_of(message) == "jobs.attach"
        if refused and json.dumps(message["id"]) in self.whole:
            message["error"]["data"]["path"] = "$.jobId"


class KeepsFewerJobs(Changing):
    def response(self, message):
        if self.method_of(message) == "jobs.list":
            del message["result"]["jobs"][30:]


class FlagsAreGrants(Changing):
    def error(self, error):
        if error["data"].get("reason") == "hostFlag":
            error["data"]["reason"] = "noHostGrant"


class UnknownModelsAreNotInstalled(Renamed):
    was, code, kind = -32003, -32004, "ModelNotInstalled"


class StallsAreCrashes(Renamed):
    was, code, kind = -32015, -32012, "EngineCrashed"


class BadOutputIsAFault(Renamed):
    was, code, kind = -32018, -32603, "InternalError"


class DoesNotSayHowItFailed(Changing):
    def error(self, error):
        if error["code"] == -32011:
            error["data"].pop("status", None)


class FullIsInvalid(Renamed):
    was, code, kind = -32013, -32600, "InvalidRequest"


class MindsUnknownWords(Asked):
    def asked(self, request, method, params):
        if "fake:nonsense" in str(params.get("prompt")):
            self.answer(request, kind="InvalidParams", code=-32602, path="$.prompt")
            return True
        return None


class TakesOtherManifests(Asked):
    def asked(self, request, method, params):
        if method == "initialize" and "--manifest" in sys.argv:
            params.pop("manifest", None)
            params.pop("grants", None)
