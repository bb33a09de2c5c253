"""Calls of every method, made on one session as a host makes them: together, one after the other, and cancelled."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from locara_protocol.client import RemoteError, Sidecar
from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
from support.host import command
from support.hub import FakeHub
from support.method_params import PARAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from locara_protocol.client import Call


_MADE = frozenset(
    {"ping", "rpc.discover", "system.info", "audit.capabilityLog", "image.generate", "image.edit", "image.cancel"}
    | {"jobs.list", "jobs.attach", "jobs.result", "host.pickFile", "host.releaseFile"}
    | {"models.list", "models.get", "models.usage", "models.load", "models.unload", "models.remove", "models.gc"}
    | {"models.download", "models.verify", "models.import", "models.prepare"}
)
"""Methods that are called in ways of their own. Others, new ones, are called with :data:`PARAMS`."""


def watched(places: Path, *flags: str, watch: str = "calls", engine: str = "fake", **more: Any) -> Sidecar:
    """Start a daemon whose event loop is watched (``loop_watch.py``), with the cache and the catalogue in a folder."""
    words = command("--engine", engine, "--cache-dir", str(places / "cache"), "--catalogue", str(places / "catalogue"))
    words[1:3] = ["-m", "support.loop_watch", watch, str(places / "notes")]
    return Sidecar([*words, *flags], env=environment() | more.pop("env", {}), **more)


def environment() -> dict[str, str]:
    """Return this process's environment, with the tests on the module path."""
    tests = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])}


def notes(places: Path) -> list[str]:
    """Return what the watch has noted."""
    return (places / "notes").read_text().splitlines()


@contextlib.contextmanager
def every_call(places: Path, session: dict[str, Any], **how: Any) -> Iterator[EveryCall]:
    """Run a watched daemon that a host may ask for everything, and open a session.

    :param places: with a cache, a catalogue, the first model's files in ``source/0``, and a folder ``pictures``.
    :param session: the app's manifest.
    """
    models = sorted(path.stem for path in (places / "catalogue").iterdir())
    hub = FakeHub()
    hub.add(f"org/{models[0]}", places / "source" / "0")
    try:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(places / "hf"), "HF_HUB_OFFLINE": "0"}
        calls = EveryCall(partial(watched, places, DOWNLOADS, MANAGEMENT, env=env, **how), models, places)
        with calls.sidecar as sidecar:
            grants = {"user-folder": str(places / "pictures"), "app-data": str(places / "pictures")}
            sidecar.initialize(manifest=session, grants=grants, processId=os.getpid())
            yield calls
    finally:
        hub.close()


class EveryCall:
    """A session, and what came of each call in it.

    :param spawn: starts a daemon with its client, given the arguments of :class:`Sidecar` besides the command.
    :param models: ids of installed models; the first one's files are in ``folder / "source"``, and a hub has them.
    :param folder: with ``pictures``, which the session may use.
    """

    def __init__(self, spawn: Callable[..., Sidecar], models: list[str], folder: Path) -> None:
        self.sent: list[str] = []
        """Methods and notifications, in the order in which they were sent."""
        self.done: set[str] = set()
        """Methods of which at least one call was answered with a result."""
        self.failed: list[tuple[str, str]] = []
        """Methods and kinds of the errors that their calls ended with."""
        self._models = models
        self._pictures = folder / "pictures"
        self._source = folder / "source" / "0"
        (self._pictures / "in.png").write_bytes(_png())
        self.sidecar = spawn(hands_files=True, record=self._record)

    def _record(self, way: str, line: bytes) -> None:
        message = json.loads(line)
        if way == "send" and "method" in message:
            self.sent.append(message["method"])

    def at_once(self, number: int) -> int:
        """Make one call of most methods, all at the same time; return how many. Depends on ``number``."""
        begun = [(method, self.sidecar.start(method, params)) for method, params in self.together(number)]
        for method, call in begun:
            self._result(method, call)
        return len(begun)

    def together(self, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield one call of most methods."""
        model = self._models[number % len(self._models)]
        drawn = {"model": model, "steps": 1, "width": 128, "height": 128, "output": {"mode": "inline"}}
        missing = {"root": "user-folder", "path": "none.png"}
        yield "ping", {}
        yield "models.get", {"model": model}
        yield "image.generate", {"prompt": "a lake", "options": {"model": f"no-{model}"}}
        yield "models.list", {}
        yield "jobs.list", {}
        yield "system.info", {}
        yield "models.usage", {}
        yield "rpc.discover", {}
        yield "models.load", {"model": model, "engine": "fake"} if number % 10 else {"model": model}
        yield "image.generate", {"prompt": "a lake", "options": {"model": model, "width": 3}}
        yield "image.edit", {"prompt": "a lake", "options": drawn, "image": missing}
        yield "host.pickFile", {"path": str(self._pictures / "none.png"), "access": "read"}
        yield "host.releaseFile", {"handle": "file-" + "0" * 32}
        yield "image.cancel", {"jobId": "job-0"}
        yield "audit.capabilityLog", {}
        yield "models.remove", {"model": model, "dryRun": True}
        yield "models.gc", {"dryRun": True}
        yield "models.unload", {}
        if number % 10 == 0:
            yield "image.generate", {"prompt": "a lake", "options": drawn}
        for method in PARAMS.keys() - _MADE:
            yield method, {**PARAMS[method], **({"model": model} if "model" in PARAMS[method] else {})}

    def one_by_one(self, *, prepares: bool = False) -> None:
        """Make the calls that need what another one did: draw into a file, edit it, look at the job, remove a model and
        download it again, and so on.

        :param prepares: whether the engine can prepare models.
        """
        self._pictures_and_jobs()
        self._models_of_the_cache(prepares=prepares)
        self._cancelled()

    def _pictures_and_jobs(self) -> None:
        model = self._models[0]
        options = {"model": model, "steps": 2, "width": 128, "height": 128}
        saved = self.call("image.generate", {"prompt": "a lake", "options": options, "channel": 900})
        self.call("jobs.result", {"jobId": saved["jobId"]})
        drawing = self.sidecar.start(
            "image.generate", {"prompt": "fake:slow=300 a lake", "options": options}, stream=True
        )
        job = next(drawing.messages())["jobId"]
        self.call("jobs.attach", {"jobId": job, "channel": 901})
        self.call("image.cancel", {"jobId": job})
        self._result("image.generate", drawing)
        read = [
            self.call("host.pickFile", {"path": str(self._pictures / "in.png"), "access": "read"}),
            self.sidecar.pick_bytes("in.png", _png()),
        ]
        with (self._pictures / "in.png").open("rb") as opened:
            read.append(self.sidecar.pick_open_file("in.png", opened.fileno(), "read"))
        write = self.call("host.pickFile", {"path": str(self._pictures / "out.png"), "access": "write"})
        sent = {"data": base64.b64encode(_png()).decode(), "mimeType": "image/png"}
        output = {"handle": write["handle"], "mode": "both"}
        for image in (*({"handle": one["handle"]} for one in read), sent, {"root": "user-folder", "path": "in.png"}):
            self.call("image.edit", {"prompt": "a sea", "image": image, "options": {**options, "output": output}})
        for picked in (*read, write):
            self.call("host.releaseFile", {"handle": picked["handle"]})

    def _models_of_the_cache(self, *, prepares: bool) -> None:
        model = self._models[0]
        self.call("models.load", {"model": model, "channel": 902})
        self.call("models.verify", {"model": model, "channel": 903})
        if prepares:
            self.call("models.prepare", {"model": model, "quantization": "4bit", "channel": 904})
            self.call("models.load", {"model": model, "quantization": "4bit"})
        self.call("models.unload")
        self.call("models.remove", {"model": model})
        self.call("models.import", {"model": model, "from": str(self._source), "channel": 905})
        self.call("models.remove", {"model": model})
        self.call("models.gc", {"maxBytes": 1 << 40})
        self.call("models.download", {"model": model, "channel": 906})

    def _cancelled(self) -> None:
        model = self._models[0]
        calls = [
            ("models.download", {"model": model}),
            ("models.verify", {"model": model}),
            ("models.import", {"model": model, "from": str(self._source)}),
            ("image.generate", {"prompt": "a lake", "options": {"model": model}}),
        ]
        for method, params in calls:
            call = self.sidecar.start(method, params)
            call.cancel()
            self._result(method, call)

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make one call, which must succeed; return the result."""
        result = self.sidecar.call(method, params, timeout=60)
        self.done.add(method)
        return result

    def _result(self, method: str, call: Call) -> None:
        try:
            call.result(60)
            self.done.add(method)
        except RemoteError as error:
            self.failed.append((method, error.kind))


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (128, 128), (200, 30, 40)).save(out, "PNG")
    return out.getvalue()
