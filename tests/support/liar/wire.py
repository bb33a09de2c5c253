"""Lies about lines and JSON-RPC."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
import os
import select

from support.liar.base import (
    LONGER,
    Asked,
    Changing,
    Drawing,
    Honest,
    encoded,
    iter_lines,
    refusal,
)


class WritesCr(Honest):
    def outward(self, line, message):
        return [line + b"\r"]


class WritesLatin1(Honest):
    def outward(self, line, message):
        return [line.decode().encode("latin-1", errors="replace") if b'"error"' in line else line]


class CutsTheLastLine(Honest):
    """Only if somebody reads."""

    def at_end_of_output(self, status):
        if select.select([], [1], [], 0)[1]:
            self.write(b'{"jsonrpc":"2.0","method":"DiffusionStep","par')
        return status


class FatFrames(Changing):
    def frame(self, params):
        if "message" in params:
            params["message"]["_pad"] = "x" * 70000


class DropsCrlf(Honest):
    def inward(self, line, message):
        return [] if line.endswith(b"\r") else [line]


class DiesOnALongLine(Honest):
    def inward(self, line, message):
        if len(line) > 16 << 20:
            os._exit(1)
        return [line]


class LosesTheLineAfterALongOne(Honest):
    long = False

    def inward(self, line, message):
        was, self.long = self.long, len(line) > 16 << 20
        return [] if was else [line]


class AnswersTwice(Honest):
    """Only for requests with the id "again", which no fixture uses."""

    def outward(self, line, message):
        return [line, line] if isinstance(message, dict) and message.get("id") == "again" else [line]


class IdsAsStrings(Changing):
    def response(self, message):
        if isinstance(message["id"], int):
            message["id"] = str(message["id"])


class NoVersion(Changing):
    """Only in a list of models, which no fixture requests."""

    def response(self, message):
        if self.method_of(message) == "models.list":
            message.pop("jsonrpc")


class BatchAnswersOneByOne(Honest):
    def outward(self, line, message):
        return [encoded(one) for one in message] if isinstance(message, list) else [line]


class ParseErrorsAreInvalidRequests(Changing):
    def error(self, error):
        if error["code"] == -32700:
            error["code"], error["data"]["kind"] = -32600, "InvalidRequest"


class TakesUnknownMembers(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and isinstance(message.get("params"), dict) and "loud" in message["params"]:
            message["params"].pop("loud")
            return [encoded(message)]
        return [line]


class RunsRequestsWithoutId(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "ping" and "id" not in message:
            return [encoded(message | {"id": "invented"})]
        return [line]


class TakesArrays(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and isinstance(message.get("params"), list) and "id" in message:
            return [encoded(message | {"params": {}})]
        return [line]


class TakesFractions(Honest):
    def inward(self, line, message):
        return [line.replace(b'"steps":4.0', b'"steps":4')]


class OneAtATime(Honest):
    """Answer nothing while a picture is being made."""

    def started(self):
        self.drawing, self.held = set(), []

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            self.drawing.add(message["id"])
        return [line]

    def outward(self, line, message):
        if isinstance(message, dict) and "method" not in message:
            if message.get("id") in self.drawing:
                self.drawing.discard(message["id"])
            elif self.drawing and "error" not in message:
                self.held.append(line)
                return []
            held, self.held = self.held, []
            return [line, *held]
        return [line]


class TakesNoPieces(Honest):
    """Treat a single byte that arrives alone as a whole line."""

    def lines_in(self):
        def read(fd, most):
            data = os.read(fd, most)
            return data + b"\n" if len(data) == 1 and data != b"\n" else data

        return iter_lines(0, LONGER, read)


class KeepsLongLines(Honest):
    def lines_in(self):
        return iter_lines(0)


class DoesNotTellTheLimit(Changing):
    def error(self, error):
        error["data"].pop("maxLineBytes", None)


class EmptyBatchesGetAnArray(Honest):
    def inward(self, line, message):
        if message == []:
            self.say(encoded([{"jsonrpc": "2.0", "id": None, "error": refusal("InvalidRequest", -32600)}]))
            return []
        return [line]


class OneErrorForAllEntries(Honest):
    def inward(self, line, message):
        if isinstance(message, list) and any(not isinstance(one, dict) for one in message):
            return self.answer({}, kind="InvalidRequest", code=-32600)
        return [line]


class AnswersBatchesOfNotifications(Honest):
    def inward(self, line, message):
        entries = message if isinstance(message, list) else []
        if entries and all("id" not in one and one["method"] != "exit" for one in entries):
            self.answer({}, kind="InvalidRequest", code=-32600)
        return [line]


class CutsBatches(Honest):
    def inward(self, line, message):
        return [encoded(message[:64])] if isinstance(message, list) and len(message) == 65 else [line]


class NeedsNoVersion(Honest):
    def inward(self, line, message):
        return [encoded({"jsonrpc": "2.0"} | message)] if isinstance(message, dict) else [line]


class NullIdsAreNotifications(Honest):
    def inward(self, line, message):
        return [] if isinstance(message, dict) and message.get("id", 0) is None else [line]


class SwallowsIdsInFlight(Honest):
    def started(self):
        self.flying = set()

    def inward(self, line, message):
        if isinstance(message, dict) and "id" in message and "method" in message:
            id = json.dumps(message["id"])
            if id in self.flying:
                return []
            self.flying.add(id)
        return [line]

    def outward(self, line, message):
        if isinstance(message, dict) and "method" not in message:
            self.flying.discard(json.dumps(message.get("id")))
        return [line]


class NullIsNoParams(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("params", 0) is None and "id" in message:
            return self.answer(message, kind="InvalidParams", code=-32602, path="$")
        return [line]


class UnknownMethodsAreWrongParams(Changing):
    def error(self, error):
        if error["code"] == -32601:
            error["code"], error["data"] = -32602, {"kind": "InvalidParams", "retryable": False, "path": "$"}


class AnswersNotifications(Asked):
    def asked(self, request, method, params):
        valid = isinstance(request.get("id"), int | str) and not isinstance(request["id"], bool)
        if valid and method in ("$/cancelRequest", "$/cancel_request", "initialized", "exit"):
            self.answer(request)
            return True
        return None


class MindsUnknownNotifications(Asked):
    known = ("exit", "initialized", "notifications/initialized", "$/cancelRequest", "$/cancel_request")

    def asked(self, request, method, params):
        if "id" not in request and method not in (*self.known, "notifications/cancelled", "ping"):
            self.answer({}, kind="InvalidRequest", code=-32600)


class MindsStrayResponses(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and "method" not in message and "result" in message:
            return self.answer({}, kind="InvalidRequest", code=-32600)
        return [line]


class TheFirstMemberWins(Honest):
    def inward(self, line, message):
        if not isinstance(message, dict):
            return [line]
        first = json.loads(line, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
        first |= {name: message[name] for name in message if name == "id"}
        return [line] if first == message else [encoded(first)]


class MindsExtraMembers(Honest):
    def inward(self, line, message):
        request = isinstance(message, dict) and {"id", "method"} <= message.keys()
        if request and message.keys() - {"jsonrpc", "id", "method", "params"}:
            return self.answer(message, kind="InvalidRequest", code=-32600)
        return [line]


class ReadsNumbersInStrings(Drawing):
    def options(self, options, params):
        if isinstance(options.get("steps"), str) and options["steps"].isdigit():
            options["steps"] = 4


class TellsAnotherLimit(Changing):
    def error(self, error):
        if "maxLineBytes" in error["data"]:
            error["data"]["maxLineBytes"] = 16 << 20
