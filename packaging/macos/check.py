"""``make check-mac``: all that has to be seen on a real Mac, in one report to send back. Here is what each part tells.

Parts that are about macOS say "not on this system" elsewhere; the others run anywhere. Nothing is sent, nobody is
asked for a password; the system itself may ask once whether the terminal may use the folder Documents (``tcc``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from macos import app_sandbox, live

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NOT_HERE = "not on this system"
_TAIL = 6000  # characters of what a command said
_FRAMES = 20  # lines of a traceback
_HOUR = 3600.0

_INSIDE = """
import json, sys, tempfile, time
from locara_sidecar.engine import sandbox
began = time.monotonic()
found = sandbox.confine(tempfile.mkdtemp(prefix="locara-check-"), [])
import mlx.core as mx
def blocks(x):
    for _ in range(20):
        x = mx.softmax(x @ x.T, axis=-1) @ x + mx.sigmoid(x)
    return x
first = time.monotonic()
mx.eval(mx.compile(blocks)(mx.random.normal((512, 512))))
mx.synchronize()
print(json.dumps({"sandbox": found.enforced, "details": found.details, "confined_s": first - began,
                  "first_compiled_s": time.monotonic() - first, "device": mx.device_info()}, default=str))
"""

_OPEN = """
import json, subprocess, tempfile
from locara_sidecar.engine import sandbox
sandbox.confine(tempfile.mkdtemp(prefix="locara-check-"), [])
status = {}
for words in (["/usr/bin/open", "-g", "locara-check://nobody"], ["/usr/bin/osascript", "-e", "1"], ["/usr/bin/pbpaste"],
              ["/usr/bin/curl", "-sS", "-m", "5", "http://127.0.0.1:1"], ["/usr/bin/mdfind", "-count", "kMDItemKind"]):
    try:
        done = subprocess.run(words, capture_output=True, timeout=20)
        status[words[0]] = [done.returncode, done.stderr.decode(errors="replace")[-200:], len(done.stdout)]
    except (OSError, subprocess.TimeoutExpired) as error:
        status[words[0]] = [type(error).__name__, str(error)[:200]]
print(json.dumps(status))
"""


_MUST_FAIL = ("/usr/bin/open", "/usr/bin/osascript")


class Part(NamedTuple):
    """One part. ``mac``: whether it is about macOS. ``look``: what to look for in its result."""

    run: Callable[[], dict[str, Any]]
    mac: bool
    look: str


def _command(words: list[str], seconds: float = _HOUR, **more: Any) -> dict[str, Any]:
    began = time.monotonic()
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=seconds, cwd=ROOT, **more
        )
        status, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        status, out, err = "not over in time", "", ""
    except OSError as error:
        status, out, err = type(error).__name__, "", str(error)
    return {
        "ok": status == 0,
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "stdout": out[-_TAIL:],
        "stderr": err[-_TAIL:],
    }


def _python(*words: str, seconds: float = _HOUR) -> dict[str, Any]:
    places = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "packaging")])
    return _command([sys.executable, *words], seconds, env={**os.environ, "PYTHONPATH": places})


def _read(found: dict[str, Any]) -> dict[str, Any]:
    """Put what a command printed as JSON into ``told``, so that whoever reads the report need not undo the quotes."""
    with contextlib.suppress(ValueError):
        found["told"] = json.loads(found["stdout"])
        del found["stdout"]
    return found


def _system() -> dict[str, Any]:
    told: dict[str, Any] = {"ok": True, "uname": list(platform.uname()), "mac": list(platform.mac_ver()[:1])}
    if sys.platform == "darwin":
        for name in ("hw.model", "hw.memsize", "machdep.cpu.brand_string", "iogpu.wired_limit_mb"):
            told[name] = _command(["/usr/sbin/sysctl", "-n", name], 20)["stdout"].strip()
        told["cache"] = _command(["/usr/bin/getconf", "DARWIN_USER_CACHE_DIR"], 20)["stdout"].strip()
    told["packages"] = _command([str(BIN / "uv"), "pip", "freeze"], 120)["stdout"].splitlines()
    return told


def _sandbox() -> dict[str, Any]:
    found = _read(_python("-m", "locara_sidecar.engine.sandbox", "--probe", seconds=120))
    if sys.platform == "darwin":
        about = 'eventMessage CONTAINS "Sandbox:" AND eventMessage CONTAINS "ython"'
        words = ["/usr/bin/log", "show", "--last", "5m", "--style", "compact", "--predicate", about]
        found["denials"] = _command(words, 300)["stdout"]
    return found


def _metal() -> dict[str, Any]:
    first, second = (_read(_python("-c", _INSIDE, seconds=600)) for _ in range(2))
    return {"ok": first["ok"] and second["ok"], "first": first, "second": second}


def _opened() -> dict[str, Any]:
    done = _python("-c", _OPEN, seconds=200)
    tried: dict[str, list[Any]] = json.loads(done["stdout"]) if done["ok"] else {}
    return {**done, "ok": bool(tried) and all(tried[name][0] != 0 for name in _MUST_FAIL), "tried": tried}


def _exfat() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        image, mount = f"{folder}/exfat.dmg", f"{folder}/mounted"
        made = _command(
            ["/usr/bin/hdiutil", "create", "-size", "64m", "-fs", "ExFAT", "-volname", "LOCARA", image], 120
        )
        attached = _command(["/usr/bin/hdiutil", "attach", image, "-mountpoint", mount], 120)
        if not (made["ok"] and attached["ok"]):
            return {"ok": False, "made": made, "attached": attached}
        try:
            saved = [_draw(f"{mount}/star.png") for _ in range(2)]
            names = sorted(os.listdir(mount))
        finally:
            _command(["/usr/bin/hdiutil", "detach", "-force", mount], 120)
    return {"ok": {"star.png", "star-2.png"} <= set(names), "names": names, "saved": saved}


def _draw(out: str) -> dict[str, Any]:
    words = [str(BIN / "locara-sidecar"), "draw", live.PROMPT, "--model", "pocket", "--steps", "4", "--out", out]
    return _command(words, 600)


def _tcc() -> dict[str, Any]:
    documents = Path.home() / "Documents"
    cancelled = live.cancel_while_asked(documents)  # first: once a question was answered, it is not asked again
    out = documents / "locara-check.png"
    done = _draw(str(out))
    told = {"cancelled": cancelled, "saved": out.exists(), "sentence": done["stderr"][-400:]}
    return {**done, **told, "ok": cancelled["ok"]}


def _power() -> dict[str, Any]:
    def pmset(what: str) -> str:
        return _command(["/usr/bin/pmset", "-g", what], 20)["stdout"]

    told = live.awake_while_drawing(lambda: pmset("assertions"))
    ours = ["locara" in told[when].lower() for when in ("before", "during", "after")]
    states = {what: pmset(what) for what in ("batt", "custom", "therm")}
    return {"ok": ours == [False, True, False] and told["power"] is not None, **told, **states}


def _app_sandbox() -> dict[str, Any]:
    outside = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        outside = live.open_files(place)
        program = app_sandbox.build(place, [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT])
        inside = live.open_files(place, [str(program)])
    held = inside["sandbox"]["kind"] == "app-sandbox" and inside["byPath"] != "opened"
    return {"ok": outside["ok"] and inside["ok"] and held, "outside": outside, "inside": inside}


PARTS: dict[str, Part] = {
    "system": Part(_system, mac=False, look="which Mac, macOS, packages"),
    "sandbox": Part(
        _sandbox, mac=False, look="told.enforced must be true; told.details; denials must name nothing of Metal"
    ),
    "metal": Part(_metal, mac=True, look="both must compute; the second's first_compiled_s far below the first's"),
    "open": Part(
        _opened, mac=True, look="open and osascript must fail; what pbpaste, curl and mdfind give must be empty"
    ),
    "doctor": Part(lambda: _command([str(BIN / "locara-sidecar"), "doctor"], 300), mac=False, look="its last line"),
    "demo": Part(lambda: _command([str(BIN / "locara-sidecar"), "demo"], 600), mac=False, look="ended with 0"),
    "kill": Part(live.kill_daemon, mac=False, look="the engine is gone within 2 seconds"),
    "cancel": Part(live.cancel_in_step, mac=False, look="sameEngine; seconds; memory.engine with Metal's part"),
    "exfat": Part(_exfat, mac=True, look="both pictures are there, under two names"),
    "tcc": Part(
        _tcc,
        mac=True,
        look="answer late: cancelled.seconds and closedAfter are small; told no: a sentence about Settings",
    ),
    "power": Part(
        _power, mac=True, look="assertions name us during the job only; power beside what batt, custom and therm say"
    ),
    "app-sandbox": Part(
        _app_sandbox,
        mac=True,
        look="inside: kind app-sandbox, byPath refused, the picture written through the descriptor; what Metal needs",
    ),
    "types": Part(lambda: _command(["make", "types"]), mac=True, look="0 errors"),
    "tests": Part(lambda: _command(["make", "test"], 3 * _HOUR), mac=True, look="failures, and what was skipped"),
    "prepare": Part(
        lambda: _python("-m", "fullsize.prepared", "flux.1-schnell", seconds=3 * _HOUR),
        mac=True,
        look="the peak while preparing FLUX in 4 bits: below 9 GB",
    ),
    "steps": Part(
        lambda: _python("-m", "fullsize.mlx_step", seconds=3 * _HOUR), mac=True, look="seconds a step, each family"
    ),
    "slow": Part(lambda: _command(["make", "test-slow"], 3 * _HOUR), mac=True, look="as tests"),
}


@contextlib.contextmanager
def _stderr_in(file: int) -> Generator[None]:
    """Within the block, what daemons log goes to a file and not between the lines for whoever runs this."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def report(names: list[str], told: Callable[[str], None] = print) -> dict[str, Any]:
    """Run parts; return what each found, by name. A part that itself fails is reported, and the next one runs."""
    found: dict[str, Any] = {}
    for name in names:
        part = PARTS[name]
        if part.mac and sys.platform != "darwin":
            found[name] = {"outcome": NOT_HERE, "look": part.look}
        else:
            told(f"{name} …")
            began = time.monotonic()
            with tempfile.TemporaryFile() as log:
                try:
                    with _stderr_in(log.fileno()):
                        result = part.run()
                except Exception as error:  # noqa: BLE001  the report is worth more than this part
                    where = traceback.format_exc().splitlines()[-_FRAMES:]
                    result = {"ok": False, "error": f"{type(error).__name__}: {error}"[:_TAIL], "where": where}
                log.seek(0)
                if said := log.read().decode(errors="replace")[-_TAIL:]:
                    result["log"] = said.splitlines()
            took = round(time.monotonic() - began, 1)
            outcome = "ok" if result.pop("ok") else "FAILED"
            found[name] = {"outcome": outcome, "look": part.look, "took": took, **result}
        told(f"{name}: {found[name]['outcome']}" + (f" ({part.look})" if found[name]["outcome"] == "FAILED" else ""))
    return found


def main() -> int:
    """Write the report; return 0 if nothing that ran failed."""
    parser = argparse.ArgumentParser(description="Check this project on a Mac and write one report.")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--report", type=Path, default=ROOT / "locara-mac-report.json")
    options = parser.parse_args()
    found = report(options.only)
    options.report.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nThe report, to be sent back as it is: {options.report}")
    return 1 if any(part["outcome"] == "FAILED" for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
