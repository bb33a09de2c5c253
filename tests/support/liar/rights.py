"""Lies about what an app may do, and about models."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import subprocess
import sys

from support.liar.base import (
    Asked,
    Changing,
    Honest,
    OpensWithAnother,
    Renamed,
    encoded,
)


class IgnoresPins(OpensWithAnother):
    def change(self, manifest):
        models = manifest.get("capabilities", {}).get("models", [])
        models[:] = [
            one.partition("@")[0] if isinstance(one, str) and len(one.partition("@sha256:")[2]) == 64 else one
            for one in models
        ]


class ListsUndeclaredModels(Changing):
    def response(self, message):
        if self.method_of(message) == "models.list" and "result" in message:
            models = message["result"]["models"]
            models.append(models[0] | {"id": "sd3.5-medium"})


class ReadingIsWriting(OpensWithAnother):
    def change(self, manifest):
        if manifest["capabilities"].get("fs", {}).get("user-folder") == "read":
            manifest["capabilities"]["fs"]["user-folder"] = "read-write"


class PicksWithoutLeave(OpensWithAnother):
    """Only if the app is the harness itself, whose manifest comes with ``initialize``."""

    def change(self, manifest):
        if manifest["name"] == "conformance" and "--manifest" not in sys.argv:
            manifest["capabilities"]["fs"]["user-selected"] = "read-write"


class BlursPaths(Changing):
    def error(self, error):
        if error["data"].get("path", "").startswith("$.manifest"):
            error["data"]["path"] = "$.manifest"


class FragmentsThatGrantNothing(Changing):
    def error(self, error):
        if "declare" in error["data"]:
            error["data"]["declare"] = {"capabilities": {"models": []}}


class HolesInTheRecord(Changing):
    def response(self, message):
        for entry in message.get("result", {}).get("entries", []):
            entry["seq"] *= 2


class PromptsInTheRecord(Honest):
    prompt = ""

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            self.prompt = message["params"].get("prompt", "")
        return [line]

    def outward(self, line, message):
        if isinstance(message, dict) and self.method_of(message) == "audit.capabilityLog":
            for entry in message["result"]["entries"]:
                entry["resource"] += f" ({self.prompt})"
            return [encoded(message)]
        return [line]


class ForgetsWhatIsLoaded(Changing):
    def response(self, message):
        if self.method_of(message) == "ping":
            message["result"]["engine"]["model"] = None


class AlwaysUnloaded(Changing):
    def response(self, message):
        if self.method_of(message) == "models.unload":
            message["result"]["unloaded"] = True


class HasDefaultsOfItsOwn(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            message["params"]["options"].setdefault("steps", 3)
            return [encoded(message)]
        return [line]


class FlagsAreNotNamed(Changing):
    def error(self, error):
        if error["data"].get("reason") == "hostFlag":
            error["data"].pop("host", None)


class BlamesTheHost(Changing):
    def error(self, error):
        if error["data"].get("reason") == "notDeclared":
            error["data"]["reason"] = "noHostGrant"


class HangsUnderLoad(Honest):
    pings = 0

    def inward(self, line, message):
        self.pings += isinstance(message, dict) and message.get("method") == "ping"
        return [] if self.pings > 100 else [line]


class AsksForNoModality(OpensWithAnother):
    def change(self, manifest):
        if manifest["name"] == "conformance" and len(manifest["modalities"]) == 1:
            manifest["modalities"] = ["text-to-image", "image-to-image"]


class WritesNoFileOfDecisions(Asked):
    def asked(self, request, method, params):
        if method == "initialize" and "app-data" in (params.get("grants") or {}):
            params["grants"].pop("app-data")


class LoadsWithoutPhases(Changing):
    def frame(self, params):
        message = params.get("message", {})
        if message.get("phase") == "queued" and "image" not in message:
            params["message"]["phase"] = "loading"


class HidesBrokenEntries(Honest):
    @property
    def stderr(self):
        return subprocess.DEVNULL if "--catalogue" in sys.argv else None


class NothingIsKnown(Renamed):
    """Report a model that is not installed as unknown."""

    was, code, kind = -32004, -32003, "ModelNotFound"


class ReplacesUnasked(Asked):
    def asked(self, request, method, params):
        if method == "models.import":
            params["replace"] = True


class KeepsWhatItRefused(Changing):
    refused = False

    def response(self, message):
        if self.method_of(message) == "models.import" and "error" in message:
            self.refused = True
        if self.method_of(message) == "models.usage" and self.refused:
            message["result"]["bytes"] += 1000


class IncompleteIsDamaged(Renamed):
    was, code, kind = -32005, -32006, "IntegrityError"


class BlamesTheFolder(Changing):
    def response(self, message):
        if self.method_of(message) == "models.import" and message["error"]["data"].get("path") == "$.model":
            message["error"]["data"]["path"] = "$.from"


class VerifiesNothing(Changing):
    def response(self, message):
        if message.get("error", {}).get("code") == -32006:
            del message["error"]
            message["result"] = {"model": "conformance-sd3", "digest": f"sha256:{'0' * 64}", "files": 6, "ok": True}


class CollectsWhatIsNeeded(Asked):
    def asked(self, request, method, params):
        if method == "models.gc" and not params:
            request["params"] = {"maxBytes": 0}


class RemovesInADryRun(Asked):
    def asked(self, request, method, params):
        if method == "models.remove":
            params.pop("dryRun", None)


class FailedDownloadsAreFaults(Renamed):
    was, code, kind = -32007, -32603, "InternalError"
