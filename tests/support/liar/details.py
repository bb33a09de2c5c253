"""Lies about the second half of a promise: another root, another limit, the next call."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
from collections import deque

from support.liar.base import Asked, Changing, Drawing, Honest, OpensWithAnother, encoded


class RunsOutOfSpaceLater(Honest):
    """Behave as if it had started in spite of limited address space, and crashed then."""

    def at_end_of_output(self, status):
        assert sys.platform != "win32"
        import resource

        limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        return 70 if limited and status == 1 else status


class TellsAnotherQueue(Changing):
    def response(self, message):
        if self.method_of(message) == "initialize" and "result" in message:
            message["result"]["capabilities"]["limits"]["maxQueue"] = 16


class FullIsFinal(Changing):
    def error(self, error):
        if error["code"] == -32013:
            error["data"]["retryable"] = False


class StallsAreFinal(Changing):
    def error(self, error):
        if error["code"] == -32015:
            error["data"]["retryable"] = False


class TellsNoSignal(Changing):
    """Only of an engine that could not be started."""

    def error(self, error):
        if error["code"] == -32011:
            error["data"].pop("signal", None)


class ReadingElsewhereIsWriting(OpensWithAnother):
    def change(self, manifest):
        fs = manifest.get("capabilities", {}).get("fs", {})
        if manifest["name"] == "bare" and fs.get("app-data") == "read":
            fs["app-data"] = "read-write"
        if manifest["name"] == "bare" and "user-paths" in fs:
            fs["user-paths"] = dict.fromkeys(fs["user-paths"], "read-write")


class PlainEntriesLiftPins(OpensWithAnother):
    def change(self, manifest):
        models = manifest.get("capabilities", {}).get("models", [])
        if manifest["name"] == "bare" and "pocket" in models:
            models[:] = ["pocket"]


class TheFirstPinCounts(OpensWithAnother):
    def change(self, manifest):
        models = manifest.get("capabilities", {}).get("models", [])
        if manifest["name"] == "bare" and "pocket" not in models:
            del models[1:]


class DownloadsWhatIsNotDeclared(Changing):
    """Only try to."""

    def response(self, message):
        denied = message.get("error", {}).get("data", {}).get("reason") == "notDeclared"
        if denied and self.method_of(message) == "models.download":
            data = {"kind": "DownloadFailed", "retryable": False}
            message["error"] = {"code": -32007, "message": "No hub has it.", "data": data}


class CountsFilesAnew(Changing):
    def response(self, message):
        if self.method_of(message) == "models.download" and "result" in message:
            message["result"]["files"] += 1


class LoadsAgain(Changing):
    loaded = False

    def response(self, message):
        if self.method_of(message) == "models.load" and "result" in message:
            if self.loaded:
                time.sleep(2.1)
            self.loaded = True


class NotFoundSaysNoMore(Changing):
    def error(self, error):
        if error["code"] == -32003:
            error["message"] = "There is no such model."


class LogsAtOneLevel(Honest):
    def __init__(self, command):
        command = list(command)
        if "--log-level" in command:
            command[command.index("--log-level") + 1] = "debug"
        super().__init__(command)


class EndsOnAnySighup(Honest):
    """Even if it was started with SIGHUP ignored."""

    def on_signal(self, number, frame):
        assert sys.platform != "win32"
        super().on_signal(signal.SIGTERM if number == signal.SIGHUP else number, frame)


class KeepsAllMessages(Honest):
    """Keep all messages of a call of very many steps for a host that does not read, however many there are."""

    writer = None

    def started(self):
        self.kept, self.news = deque(), threading.Condition()

    def write_kept(self):
        while True:
            with self.news:
                while not self.kept:
                    self.news.wait()
                line = self.kept[0]
            self.write(line + b"\n")  # without the lock: nothing else is written while some are kept
            with self.news:
                self.kept.popleft()
                self.news.notify_all()

    def outward(self, line, message):
        frame = isinstance(message, dict) and "method" in message
        if self.writer is None and frame and message["params"]["message"]["steps"] == 200:
            self.writer = threading.Thread(target=self.write_kept, daemon=True)
            self.writer.start()
        if self.writer is None:
            return [line]
        with self.news:
            if frame:
                self.kept.append(line)
                self.news.notify_all()
                return []
            while self.kept:
                self.news.wait()
        return [line]


class HandlesAreForOneSave(Asked):
    def started(self):
        self.saved = set()

    def asked(self, request, method, params):
        handle = ((params.get("options") or {}).get("output") or {}).get("handle")
        if method != "image.generate" or handle is None:
            return None
        if handle in self.saved:
            self.answer(request, kind="StorageError", code=-32014, errno="EEXIST")
            return True
        return None

    def outward(self, line, message):
        if isinstance(message, dict):
            self.saved |= {one.get("handle") for one in message.get("result", {}).get("images", [])}
        return [line]


class EditsWithTheFirst(Asked):
    """Without a model, make an edit with the first one, whether or not that can edit."""

    def asked(self, request, method, params):
        if method == "image.edit" and "--catalogue" in sys.argv and "image" in params:
            params["options"].setdefault("model", "draws-only")


class MindsMetaInside(Drawing):
    """Accept ``_meta`` beside the options but not among them."""

    def options(self, options, params):
        if "_meta" in options:
            options["unknown"] = options.pop("_meta")


class TakesWideGrants(Honest):
    def inward(self, line, message):
        if len(line) > 1 << 20 and b'"grants"' in line and b'"$notes"' not in line:
            wide = json.loads(line)
            wide["params"]["grants"] = {}
            return [encoded(wide)]
        return [line]


class FilesAreFolders(Asked):
    def started(self):
        self.files = False

    def asked(self, request, method, params):
        if method == "initialize":
            self.files = any(os.path.isfile(path) for path in (params.get("grants") or {}).values())

    def outward(self, line, message):
        if isinstance(message, dict) and self.files and "app" in message.get("result", {}):
            message["result"]["app"]["warnings"] = []
            return [encoded(message)]
        return [line]


class FitsMasks(Asked):
    """Ignore a mask of another size."""

    def asked(self, request, method, params):
        if method == "image.edit" and "data" in (params.get("mask") or {}) and "data" in params["image"]:
            image, mask = (base64.b64decode(params[name]["data"]) for name in ("image", "mask"))
            if image[16:24] != mask[16:24]:  # a PNG's width and height
                del params["mask"]


class MarksNothing(Drawing, Changing):
    """Only where all metadata was requested."""

    def started(self):
        self.full = set()

    def asked(self, request, method, params):
        if ((params.get("options") or {}).get("output") or {}).get("metadata") == "full":
            self.full.add(request["id"])

    def response(self, message):
        for image in message.get("result", {}).get("images", []) if message.get("id") in self.full else []:
            data = base64.b64decode(image["data"]).replace(b"trainedAlgorithmicMedia", b"trainedAlgorithmicMedium")
            image["data"] = base64.b64encode(data).decode()


class TakesAnyLimit(Asked):
    def asked(self, request, method, params):
        if method == "audit.capabilityLog" and params.get("limit") in (0, 1001):
            del params["limit"]


class LeavesWhatIsCancelled(Asked):
    """Only a file that was being saved."""

    def started(self):
        self.root, self.paths, self.saving = "", {}, set()

    def asked(self, request, method, params):
        if method == "initialize":
            self.root = (params.get("grants") or {}).get("user-folder") or self.root
        if method == "image.generate" and "channel" in params:
            self.paths[request["id"]] = params["channel"], params["options"]["output"].get("path")

    def outward(self, line, message):
        params = message.get("params", {}) if isinstance(message, dict) and "method" in message else {}
        if params.get("message", {}).get("phase") == "saving":
            self.saving.add(params["channel"])
        channel, path = self.paths.get(message.get("id"), (None, None)) if not params else (None, None)
        cancelled = message.get("error", {}).get("code") == -32800
        if path and channel in self.saving and cancelled and os.path.isdir(self.root):  # played, it is gone
            with open(os.path.join(self.root, path), "wb") as file:
                file.write(b"half a picture")
        return [line]


class TakesNarrowerManifests(Asked):
    def asked(self, request, method, params):
        if method == "initialize" and "--manifest" in sys.argv and len(params["manifest"]["modalities"]) == 1:
            del params["manifest"]


class TakesFoldersBesideTheFixed(Asked):
    def asked(self, request, method, params):
        if method == "initialize" and "--grant" in sys.argv and params["grants"]["user-folder"] != "/":
            del params["grants"]
