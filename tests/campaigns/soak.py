"""``make campaign-soak``: one daemon with the embedded model works for a long time, and what that leaves behind.

A host keeps up to four calls going: pictures of all kinds, edits with and without a mask, cancels at any moment,
nonsense, questions, loading and unloading. Between rounds, with nothing to do and the same model loaded, daemon and
engine are looked at: resident memory, descriptors, child processes, files in the folder. Memory drifts by the median of
the last third of the rounds against that of the third before; the first third is for warming up, and the record of
decisions, which keeps so many, is full from the beginning. The measurement must find planted faults: a daemon that
keeps its answers, and one that leaks descriptors. With the fake engine, which then takes no time, the daemon gets as
many calls in minutes as otherwise in hours. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from PIL import Image

from campaigns.report import Row, show
from locara_protocol.client import RemoteError, Sidecar
from locara_protocol.messages import MAX_AUDIT_ENTRIES

if TYPE_CHECKING:
    from locara_protocol.client import Call

_MAX_DRIFT = 0.01
_AT_ONCE = 4
_BATCH = 100  # denials at once
_PATIENCE = 60.0  # seconds for any answer
_WHERE = {"modalities": ["text-to-image", "image-to-image"], "models": ["pocket"]}
PLANTS = {
    "": "",
    "answers are kept": (
        "import locara_sidecar.daemon.wire.outbox as o; kept = []; answer = o.Outbox.answer; "
        "o.Outbox.answer = lambda self, line: (kept.append(line * 256), answer(self, line))[1]"
    ),
    "descriptors are lost": (
        "import os, locara_sidecar.daemon.wire.outbox as o; answer = o.Outbox.answer; "
        "o.Outbox.answer = lambda self, line: (os.dup(2), answer(self, line))[1]"
    ),
}


class Look(NamedTuple):
    """The state between two rounds: bytes and descriptors of both processes, processes, files of the app."""

    daemon: int
    engine: int
    descriptors: int
    processes: int
    files: int


class Soak:
    """A session, the calls it makes and their outcomes."""

    def __init__(self, folder: Path, engine: str, plant: str, chance: random.Random) -> None:
        start = (
            ["-c", f"{plant}\nfrom locara_sidecar.__main__ import main\nmain()"] if plant else ["-m", "locara_sidecar"]
        )
        command = [sys.executable, *start, "serve", "--engine", engine, "--log-level", "error", "--idle-unload", "3600"]
        self._folder = folder
        self._chance = chance
        self._host = Sidecar(command)
        app = {
            "schema": "locara/v1",
            "name": "soak",
            "publisher": "locara",
            "version": "1.0.0",
            "modalities": _WHERE["modalities"],
            "capabilities": {"models": _WHERE["models"], "fs": {"user-folder": "write"}},
        }
        self._host.initialize(manifest=app, grants={"user-folder": str(folder)})
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._fill_the_record()

    def _fill_the_record(self) -> None:
        params = {"prompt": "a circle", "options": {"model": "sd3.5-medium"}}
        for _ in range(MAX_AUDIT_ENTRIES // _BATCH + 1):
            for call in [self._host.start("image.generate", params) for _ in range(_BATCH)]:
                self._end("a denial", ("CapabilityDenied",), call)

    def round(self, calls: int) -> Look:
        """Make ``calls`` calls, then measure."""
        going: list[tuple[str, tuple[str, ...], Call]] = []
        for _ in range(calls):
            while len(going) >= _AT_ONCE:
                self._end(*going.pop(0))
            kind = self._chance.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
            method, params, expected = _KINDS[kind][1](self._chance)
            call = self._host.start(method, params, stream=method.startswith("image."))
            going.append((kind, expected, call))
            if "RequestCancelled" in expected:
                time.sleep(self._chance.uniform(0, 0.3))
                call.cancel()
        for one in going:
            self._end(*one)
        for path in self._folder.iterdir():
            if path.name.startswith("."):
                self.wrong.append(f"left {path.name}")
            path.unlink()
        self._host.call("models.load", {"model": "pocket", "quantization": "none"}, timeout=_PATIENCE)
        return self._look()

    def _end(self, kind: str, expected: tuple[str, ...], call: Call) -> None:
        for _ in call.messages():
            pass
        try:
            call.result(_PATIENCE)
            outcome = "result"
        except RemoteError as error:
            outcome = error.kind
        self.answers[outcome] += 1
        if outcome not in expected:
            self.wrong.append(f"{kind}: {outcome}")

    def _look(self) -> Look:
        time.sleep(0.5)
        daemon = psutil.Process(self._host.process.pid)
        below = daemon.children(recursive=True)
        assert sys.platform != "win32"
        engine = max(below, key=lambda child: child.memory_info().rss)
        return Look(
            daemon=daemon.memory_info().rss,
            engine=engine.memory_info().rss,
            descriptors=daemon.num_fds() + engine.num_fds(),
            processes=len(below),
            files=len(list(self._folder.iterdir())),
        )

    def close(self) -> None:
        """End the session; violations of the contract during it count as wrong, too."""
        self._host.close()
        self.wrong += [str(violation) for violation in self._host.violations]


def _drawing(chance: random.Random) -> dict[str, Any]:
    """Return the options of a random picture."""
    output = chance.choice(
        [{"mode": "save"}, {"mode": "save", "path": "one.png", "onConflict": "rename"}, {"mode": "inline"}]
    )
    return {
        "model": "pocket",
        "steps": chance.randint(1, 10),
        "seed": chance.randrange(2**32),
        "count": chance.choice([1, 1, 1, 2]),
        "speed": chance.choice(["exact", "exact", "fast"]),
        "preview": {"mode": chance.choice(["off", "auto", "linear", "full"])},
        "output": output,
    }


def _prompt(chance: random.Random) -> str:
    colours = ("red", "green", "blue", "yellow", "purple")
    return f"a {chance.choice(('small', 'large'))} {chance.choice(colours)} circle, {chance.choice(colours)} background"


def _picture(colour: str, mode: str = "RGB") -> dict[str, str]:
    out = io.BytesIO()
    Image.new(mode, (128, 128), colour).save(out, "PNG")
    return {"data": base64.b64encode(out.getvalue()).decode(), "mimeType": "image/png"}


def _draw(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    return "image.generate", {"prompt": _prompt(chance), "options": _drawing(chance)}, ("result",)


def _edit(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    params = {"prompt": _prompt(chance), "image": _picture("red"), "options": _drawing(chance)}
    mask = {"mask": _picture("white", "L")} if chance.random() < 0.5 else {}
    return "image.edit", params | mask, ("result",)


def _stop(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    method, params, expected = chance.choice((_draw, _edit))(chance)
    params["options"]["count"] = 4
    return method, params, (*expected, "RequestCancelled")


def _nonsense(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    options = _drawing(chance)
    wrong: dict[str, Any] = chance.choice(
        [{"steps": 0}, {"width": 65}, {"colour": "red"}, {"model": "sd3.5-medium"}, {"model": "nobody's"}]
    )
    params: dict[str, Any] = {"prompt": _prompt(chance), "options": options | wrong}
    if chance.random() < 0.3:
        broken = {"data": base64.b64encode(b"\x89PNG\r\n\x1a\nno").decode(), "mimeType": "image/png"}
        params |= {"options": options, "image": broken}
        return "image.edit", params, ("InvalidImage",)
    return "image.generate", params, ("InvalidParams", "CapabilityDenied", "ModelNotFound")


def _ask(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    methods = ("ping", "jobs.list", "models.list", "system.info", "audit.capabilityLog")
    return chance.choice(methods), {}, ("result",)


def _load(chance: random.Random) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    if chance.random() < 0.3:
        return "models.unload", {}, ("result",)
    return "models.load", {"model": "pocket", "quantization": chance.choice(["none", "8bit", "4bit"])}, ("result",)


_KINDS = {
    "a picture": (8, _draw),
    "an edit": (4, _edit),
    "a cancel": (4, _stop),
    "nonsense": (3, _nonsense),
    "a question": (4, _ask),
    "loading": (1, _load),
}
"""Kinds of calls, with how often each occurs."""


def drift(values: list[int]) -> float:
    """Return how much larger the last third is than the third before it, as a fraction."""
    third = len(values) // 3
    return statistics.median(values[-third:]) / statistics.median(values[-2 * third : -third]) - 1


def soak(engine: str, seconds: float, calls: int, seed: int, plant: str = "") -> tuple[list[Look], Soak]:
    """Run rounds of that many calls for that long, at least nine."""
    with tempfile.TemporaryDirectory(prefix="locara-soak-") as folder:
        one = Soak(Path(folder), engine, PLANTS[plant], random.Random(seed))
        looks: list[Look] = []
        end = time.monotonic() + seconds
        try:
            while len(looks) < 9 or time.monotonic() < end:
                looks.append(one.round(calls))
        finally:
            one.close()
    return looks, one


def rows_of(engine: str, looks: list[Look], one: Soak, seconds: float) -> list[Row]:
    """Return the rows for the goals of a run."""
    rows: list[Row] = []
    for name in ("daemon", "engine"):
        values = [getattr(look, name) for look in looks]
        moved = drift(values)
        note = f"{values[0] >> 20} MiB after the first of {len(values)} rounds, {values[-1] >> 20} MiB after the last"
        rows.append(
            Row(
                f"{engine}: memory of the {name}",
                f"{moved:+.2%}",
                f"<= {_MAX_DRIFT:.0%}",
                moved <= _MAX_DRIFT,
                seconds,
                note,
            )
        )
    warm = looks[len(looks) // 3]
    for name in ("descriptors", "processes", "files"):
        more = getattr(looks[-1], name) - getattr(warm, name)
        rows.append(Row(f"{engine}: {name} more than after a third", f"{more:+d}", "0", more <= 0, seconds))
    answers = ", ".join(f"{count} {kind}" for kind, count in one.answers.most_common())
    note = f"first: {one.wrong[0][:160]}" if one.wrong else answers
    figure = f"{len(one.wrong)} of {sum(one.answers.values())}"
    rows.append(Row(f"{engine}: answered wrong", figure, "0", not one.wrong, seconds, note))
    return rows


def main() -> int:
    """Return 0 if every goal is met and every planted fault is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="for each engine (60)")
    parser.add_argument("--engine", choices=("torch", "mlx", "fake"), nargs="*", default=["torch", "mlx"])
    parser.add_argument("--calls", type=int, default=40, help="of a round (40)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if sys.platform != "linux":
        print("This campaign reads /proc, which only Linux has.", file=sys.stderr)
        return 2
    os.environ |= {f"LOCARA_FAKE_{phase}_MS": "0" for phase in ("STEP", "LOAD", "ENCODE", "DECODE")}
    rows: list[Row] = []
    for engine in options.engine:
        began = time.monotonic()
        looks, one = soak(engine, options.minutes * 60, options.calls, options.seed)
        rows += rows_of(engine, looks, one, time.monotonic() - began)
    for plant in filter(None, PLANTS):
        began = time.monotonic()
        looks, one = soak(options.engine[0], 0, options.calls, options.seed, plant)
        missed = [
            row for row in rows_of("", looks, one, 0) if not row.met and ("daemon" in row.name or "descr" in row.name)
        ]
        figure = "found" if missed else "not found"
        rows.append(Row(f"planted: {plant}", figure, "found", bool(missed), time.monotonic() - began))
    return show("soak", rows)


if __name__ == "__main__":
    sys.exit(main())
