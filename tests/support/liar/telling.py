"""Lies about what is reported beside the picture: of the right type, but false."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from support.liar.base import Asked, Changing, Drawing, encoded


class ListsNoNotifications(Changing):
    def response(self, message):
        if "capabilities" in message.get("result", {}):
            message["result"]["capabilities"]["notifications"] = []


class ForgetsTheQueue(Changing):
    def response(self, message):
        if "jobs" in message.get("result", {}) and "engine" in message["result"]:
            message["result"]["jobs"]["queued"] = 0


class DiscoversNamesOnly(Changing):
    def response(self, message):
        if "openrpc" in message.get("result", {}):
            message["result"]["methods"] = [{"name": one["name"]} for one in message["result"]["methods"]]


class SaysNothingOfEncoding(Changing):
    """Omit a phase and renumber the rest."""

    def started(self):
        self.left_out = {}

    def outward(self, line, message):
        if not isinstance(message, dict) or message.get("method") != "DiffusionStep":
            return [line]
        params = message["params"]
        if params["index"] == 0:
            self.left_out[params["channel"]] = 0
        if params.get("message", {}).get("phase") == "encoding":
            self.left_out[params["channel"]] += 1
            return []
        params["index"] -= self.left_out[params["channel"]]
        return [encoded(message)]


class ElapsedStandsStill(Changing):
    def frame(self, params):
        if "elapsedMs" in params.get("message", {}):
            params["message"]["elapsedMs"] = 1


class TimesNothing(Changing):
    def response(self, message):
        if "timings" in message.get("result", {}):
            message["result"]["timings"] = dict.fromkeys(message["result"]["timings"], 0)


class ParametersLackOptions(Changing):
    def response(self, message):
        if "parameters" in message.get("result", {}):
            for name in ("scheduler", "precision"):
                message["result"]["parameters"]["options"].pop(name, None)


class PreviewsOfAnySize(Drawing):
    def options(self, options, params):
        if (options.get("preview") or {}).get("maxBytes") == 512:
            options["preview"]["maxBytes"] = 40960


class SavesAreInlineToo(Drawing):
    def options(self, options, params):
        if (options.get("output") or {}).get("mode") == "save":
            options["output"]["mode"] = "both"


class OneImageForAll(Changing):
    """Repeat the first image in place of each further one, with that one's seed."""

    def response(self, message):
        for one in message.get("result", {}).get("images", [])[1:]:
            if "data" in one:
                one |= {name: message["result"]["images"][0][name] for name in ("data", "sha256", "bytes")}


class AttachesWithoutAPicture(Changing):
    def frame(self, params):
        if params["index"] == 0:
            params.get("message", {}).pop("preview", None)


class KeepsTheOldChannel(Asked):
    """Keep the channel number that a job had before it was attached in use as long as the job runs."""

    def started(self):
        self.used = {}

    def asked(self, request, method, params):
        channel = params.get("channel")
        if method == "image.generate" and isinstance(channel, int) and "fake:slow" in params.get("prompt", ""):
            if channel in self.used:
                self.answer(request, kind="InvalidParams", code=-32602, path="$.channel")
                return True
            self.used[channel] = True
        return None


class AttachedJobsAreDone(Changing):
    def response(self, message):
        if message.get("result", {}).keys() == {"jobId", "state"} and message["result"]["state"] != "running":
            message["result"]["state"] = "done"


class CancelsOnlyWhatRuns(Changing):
    """Report that there is no such job if the job is waiting."""

    def started(self):
        self.phases = {}

    def frame(self, params):
        told = params.get("message", {})
        if "jobId" in told:
            self.phases[told["jobId"]] = told["phase"]

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.cancel":
            self.waits = self.phases.get(message["params"]["jobId"]) == "queued"
        return [line]

    def response(self, message):
        if message.get("result") == {"cancelled": True} and self.waits:
            message["result"]["cancelled"] = False


class RecordsNameNothing(Changing):
    def response(self, message):
        for one in message.get("result", {}).get("entries", []):
            if "resource" in one and "capability" in one:
                one["resource"] = ""


class LimitsToTheFirst(Changing):
    """Without ``after``, return the first entries instead of the latest."""

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "audit.capabilityLog":
            params = message.get("params") or {}
            if "limit" in params and "after" not in params:
                params["after"] = 0
                return [encoded(message)]
        return [line]


class TellsProgressTooOften(Changing):
    """Send each message about a model's loading twenty times."""

    def started(self):
        self.more = {}

    def outward(self, line, message):
        if not isinstance(message, dict) or message.get("method") != "ModelProgress":
            return [line]
        params = message["params"]
        if params["index"] == 0:
            self.more[params["channel"]] = 0
        params["index"] += self.more[params["channel"]]
        if params.get("end") or params["message"]["phase"] != "loading":
            return [encoded(message)]
        again = [message | {"params": params | {"index": params["index"] + more}} for more in range(20)]
        self.more[params["channel"]] += 19
        return [encoded(one) for one in again]


class PreviewsOfTheStepBefore(Changing):
    """Only from the second step on."""

    def started(self):
        self.before = {}

    def frame(self, params):
        if "preview" in params.get("message", {}):
            own = params["message"]["preview"]
            params["message"]["preview"] = self.before.get(params["channel"]) or own
            self.before[params["channel"]] = own
        if params.get("end"):
            self.before.pop(params["channel"], None)
