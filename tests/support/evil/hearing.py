"""Trying what an evil engine sends and writes on a real daemon: each act is a call by a host, and the daemon's reaction
is judged from outside. ``python -m support.evil.hearing [PART …]`` prints it as one line of JSON.

An act is contained if its call is answered with an error of ours (or with its result, if nothing false was sent), ping
is answered, ``system.info`` repeats nothing that the engine claimed, models are listed, the next call works, the daemon
is the same process, has grown by no more than :data:`GROWTH` and has logged only records of its own form without a
prompt, no file other than pictures was created, and the user's own file is unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from locara_protocol.client import ClientError, RemoteError, Sidecar
from locara_sidecar.machine.engine_choice import installed
from locara_sidecar.machine.processes.trees import remove_tree
from support.evil import making, speaker
from support.evil.lies import BYTES, DENIALS, FLOODS, LIES, PREPARED, STARTS
from support.host import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

GROWTH = 64 << 20
"""In bytes: the engine's pipe buffers at most 16 MiB, and decoding it takes up to twice that."""
PROMPT = "the secret wish of a user"
_SECONDS = 120
_TESTS = Path(__file__).parents[2]
_MODELS = _TESTS.parent / "fixtures" / "models"
_DAEMON = (
    "import sys; sys.path[:0] = [sys.argv.pop(1)]\n"
    "from pathlib import Path\n"
    "from support.evil import speaker\n"
    "from locara_sidecar.daemon.engine_host.transport import process\n"
    "control = Path(sys.argv.pop(1))\n"
    "process.worker_argv = lambda: speaker.argv(control)\n"
    "from locara_sidecar.__main__ import main\n"
    "main()\n"
)
Facts = dict[str, str]


def acts() -> list[tuple[str, str]]:
    """Return the part and the name of every act."""
    lists: dict[str, Any] = {
        "starting": STARTS,
        "answers": LIES,
        "errors": DENIALS,
        "bytes": BYTES,
        "floods": [*FLOODS, *speaker.ENDLESS],
        "prepared": [*PREPARED, *making.MADE, *making.DURING],
    }
    return [(part, name) for part, names in lists.items() for name in names]


class Judge:
    """A real daemon whose engine is the evil one, and its host.

    :param engine: "fake" for pictures; "mlx", which prepares models, for prepared forms.
    """

    def __init__(self, engine: str) -> None:
        self._stack = contextlib.ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="locara-evil-", dir="/tmp"))
        self._stack.callback(remove_tree, self._folder)
        self._pictures = self._folder / "pictures"
        self._pictures.mkdir()
        self._secret = self._folder / making.SECRET
        self._secret.write_bytes(b"the user's key")
        self._secret.chmod(0o600)
        self._cache = self._folder / "cache"
        flags = ["--engine", engine, "--cache-dir", str(self._cache), "--allow-model-management", "--allow-downloads"]
        model = "pocket"
        if engine != "fake":
            model = "tiny"
            flags += ["--catalogue", str(_catalogue(self._folder))]
        self._log = self._stack.enter_context((self._folder / "log").open("wb"))
        command = [sys.executable, "-c", _DAEMON, str(_TESTS), str(self._folder / "act"), "serve", *flags]
        self._host = self._stack.enter_context(Sidecar(command, stderr=self._log))
        self._host.initialize(manifest=manifest(model), grants={"user-folder": str(self._pictures)})
        if engine != "fake":
            self._host.call("models.import", {"model": model, "from": str(_MODELS / "tiny-flux")}, timeout=_SECONDS)
        else:
            self._draw()
        self._pid = self._host.process.pid
        self._before = psutil.Process(self._pid).memory_info().rss

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def judge(self, part: str, name: str) -> tuple[str, list[str]]:
        """Have the engine perform an act.

        :returns: what its call was answered, and what is wrong: nothing, if it was held.
        """
        speaker.told(self._folder, name)
        if part == "starting":
            self._host.call("models.unload", timeout=_SECONDS)
        answer = self._prepare(name) if part == "prepared" else self._begin(name)
        wrong = [] if _right(part, name, answer) else [f"answered {answer}"]
        (self._folder / "act").unlink(missing_ok=True)
        return answer, wrong + list(self._damage(part))

    def _begin(self, name: str) -> str:
        call = self._host.start("image.generate", {"prompt": PROMPT, "options": {"model": "pocket", "steps": 4}})
        if name in speaker.ENDLESS:
            with contextlib.suppress(ClientError):
                self._host.call("ping", timeout=_SECONDS)
            call.cancel()
        return _answered(call)

    def _draw(self) -> str:
        return self._begin("")

    def _prepare(self, name: str) -> str:
        asked = PREPARED[name][0] if name in PREPARED else "8bit"
        if asked == "auto":
            asked = "8bit"
        params = {"model": "tiny", "quantization": asked, "precision": "float32"}
        answer = _answered(self._host.start("models.prepare", params))
        if answer == "done":
            answer = _answered(self._host.start("models.verify", {"model": "tiny"}))
            self._host.call("models.unload", timeout=_SECONDS)
            self._host.call("models.remove", {"model": "tiny", "prepared": True}, timeout=_SECONDS)
        return answer

    def _damage(self, part: str) -> Iterator[str]:
        """Yield everything that is not as it should be."""
        try:
            self._host.call("ping", timeout=_SECONDS)
            told = self._host.call("system.info", timeout=_SECONDS)
            if "evil" in json.dumps(told["sandbox"]):
                yield "system.info tells what the engine boasted"
            self._host.call("models.list", timeout=_SECONDS)
            if part != "prepared" and (answer := self._draw()) != "done":
                yield f"the next call was answered {answer}"
        except (ClientError, TimeoutError) as error:
            yield f"the daemon does not answer: {type(error).__name__} {error}"
            return
        if self._host.process.poll() is not None or self._host.process.pid != self._pid:
            yield "the daemon ended"
            return
        grown = psutil.Process(self._pid).memory_info().rss - self._before
        if grown > GROWTH:
            yield f"the daemon grew by {grown >> 20} MiB"
        yield from self._log_faults()
        for path in self._pictures.iterdir():
            if not path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"):
                yield f"a file was saved that is no picture: {path.suffix}"
        mode = stat.S_IMODE(self._secret.stat().st_mode)
        if mode != 0o600 or self._secret.read_bytes() != b"the user's key":
            yield f"the user's file was changed ({mode:o})"
        if any(path.is_symlink() for path in _below(self._cache / "models")):
            yield "a link was published"

    def _log_faults(self) -> Iterator[str]:
        text = (self._folder / "log").read_bytes()
        if PROMPT.encode() in text:
            yield "the prompt is in the log"
        if len(text) > 64 << 20:
            yield f"the log has {len(text) >> 20} MiB"
        for line in text.splitlines():
            try:
                record = json.loads(line)
                sound = record["ts"] != "never" and record["level"] in ("debug", "info", "warning", "error")
            except (ValueError, KeyError, TypeError):
                sound = False
            if not sound or b"Traceback" in line:
                yield f"a line of the log is no record: {line[:200]!r}"
                return


def _right(part: str, name: str, answer: str) -> bool:
    """Return whether a call got the answer that it should get."""
    if name in speaker.ENDLESS:
        return answer == "RequestCancelled"
    if name in making.DURING:  # which of the two comes first is random
        return answer in ("done", "IntegrityError", "StorageError", "ModelIncomplete")
    if name in making.MADE:
        return answer in ("IntegrityError", "StorageError", "ModelIncomplete")
    if part == "floods":
        return answer == "done" or (name == "100,000 steps" and answer == "EngineCrashed: protocol")
    return answer == ("EngineUnavailable: protocol" if part == "starting" else "EngineCrashed: protocol")


def _answered(call: Any) -> str:
    try:
        call.result(_SECONDS)
    except RemoteError as error:
        reason = error.data.get("reason") if error.kind in ("EngineCrashed", "EngineUnavailable") else None
        return error.kind if reason is None else f"{error.kind}: {reason}"
    except (ClientError, TimeoutError) as error:
        return type(error).__name__
    return "done"


def _catalogue(folder: Path) -> Path:
    """Create a folder with an entry for a tiny model that may be in the store."""
    (folder / "catalogue").mkdir()
    entry = json.loads((_MODELS / "tiny-flux.json").read_text())
    source = {"repository": "org/tiny", "files": ["*.json", "*.txt", "*.safetensors"]}
    (folder / "catalogue" / "tiny.json").write_text(json.dumps(entry | {"id": "tiny", "source": source}))
    return folder / "catalogue"


def _below(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        yield from (Path(path, name) for name in (*folders, *files))


def run(parts: set[str]) -> list[dict[str, Any]]:
    """Perform every act of ``parts`` (all, if empty); return its part, its name, the answer and what is wrong."""
    rows: list[dict[str, Any]] = []
    for engine, of_engine in (("fake", lambda part: part != "prepared"), ("mlx", lambda part: part == "prepared")):
        chosen = [(part, name) for part, name in acts() if of_engine(part) and (not parts or part in parts)]
        if not chosen:
            continue
        if engine != "fake" and engine not in installed():
            rows += [
                {"part": part, "name": name, "answer": "skipped: no MLX here", "wrong": []} for part, name in chosen
            ]
            continue
        with Judge(engine) as judge:
            for part, name in chosen:
                answer, wrong = judge.judge(part, name)
                rows.append({"part": part, "name": name, "answer": answer, "wrong": wrong})
    return rows


if __name__ == "__main__":
    print(json.dumps(run(set(sys.argv[1:]))), flush=True)
