"""``make check-mac``: everything that must be checked on a real Mac, in one report to send back; each part is here.

Parts about macOS report "not on this system" elsewhere; the others run anywhere. Nothing is sent, and no password is
requested; the system itself may ask once whether the terminal may use the folder Documents (``tcc``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from macos import app_sandbox, commands, half, inside, live
from macos.commands import BIN, HOUR, ROOT, TAIL, command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

NOT_HERE = "not on this system"
NOT_SEEN = "not seen"
"""A part ran, but could not observe what it is about."""
_FRAMES = 20  # lines of a traceback
_ALL = 400_000  # characters: the output of thousands of tests, many of which fail
_LONG = 3 * HOUR
_SPARE = HOUR / 6
"""Time for a part to end by itself something that takes too long."""
_DOCTOR = "the last line of stdout: that all is well, or what is wrong and what to do"
_LIST = "import os, sys; os.listdir(sys.argv[1])"


class Part(NamedTuple):
    """One part.

    :param mac: whether it is about macOS.
    :param look: what to look for in its result.
    :param denials: whether to add what macOS's sandboxes denied meanwhile.
    :param seconds: after this, everything that it has started is killed.
    """

    run: Callable[[], dict[str, Any]]
    mac: bool
    look: str
    denials: bool = False
    seconds: float = HOUR / 2


def _system() -> dict[str, Any]:
    told: dict[str, Any] = {"ok": True, "uname": list(platform.uname()), "mac": list(platform.mac_ver()[:1])}
    told |= {"python": sys.version, "freeDisk": shutil.disk_usage(tempfile.gettempdir()).free}
    told["changedFiles"] = command(["git", "status", "--porcelain"], 60)["stdout"].splitlines()
    if sys.platform == "darwin":
        for name in ("hw.model", "hw.memsize", "machdep.cpu.brand_string", "iogpu.wired_limit_mb"):
            told[name] = command(["/usr/sbin/sysctl", "-n", name], 20)["stdout"].strip()
        told["cache"] = command(["/usr/bin/getconf", "DARWIN_USER_CACHE_DIR"], 20)["stdout"].strip()
    told["packages"] = command([str(BIN / "uv"), "pip", "freeze"], 120)["stdout"].splitlines()
    return told


def _sandbox() -> dict[str, Any]:
    return commands.read(commands.python("-m", "locara_sidecar.engine.sandbox", "--probe", seconds=120))


def _exfat() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        image, mount = f"{folder}/exfat.dmg", f"{folder}/mounted"
        os.mkdir(mount)
        made = command(["/usr/bin/hdiutil", "create", "-size", "64m", "-fs", "ExFAT", "-volname", "LOCARA", image], 120)
        attached = command(["/usr/bin/hdiutil", "attach", image, "-nobrowse", "-mountpoint", mount], 120)
        if not (made["ok"] and attached["ok"]):
            return {"ok": False, "made": made, "attached": attached}
        try:
            saved = [_draw(f"{mount}/star.png") for _ in range(2)]
            names = sorted(os.listdir(mount))
        finally:
            command(["/usr/bin/hdiutil", "detach", "-force", mount], 120)
    return {"ok": {"star.png", "star-2.png"} <= set(names), "names": names, "saved": saved}


def _draw(out: str) -> dict[str, Any]:
    words = [str(BIN / "locara-sidecar"), "draw", live.PROMPT, "--model", "pocket", "--steps", "4", "--out", out]
    return command(words, 600)


def _tcc(documents: Path, listing: str = _LIST, patience: float = 3.0) -> dict[str, Any]:
    """Check that nothing waits for the user while macOS asks about a folder.

    A process that lists the folder shows whether macOS asks: if so, it waits until the question is answered.
    """
    with subprocess.Popen([sys.executable, "-c", listing, str(documents)], stderr=subprocess.DEVNULL) as question:
        try:
            allowed = question.wait(patience) == 0
            answered = f"was {'allowed' if allowed else 'denied'} before, so macOS did not ask"
            cancelled: dict[str, Any] = {}
        except subprocess.TimeoutExpired:
            cancelled = live.cancel_while_asked(documents)
            print("tcc: now answer macOS's question, as you like", flush=True)
            allowed = question.wait() == 0
            answered = "allowed" if allowed else "denied"
    out = documents / f"locara-check-{os.getpid()}.png"
    done = _draw(str(out))
    saved = out.exists()
    out.unlink(missing_ok=True)
    told: dict[str, Any] = {"answer": answered, "cancelled": cancelled, "saved": saved}
    told |= {"sentence": done["stderr"][-400:], "status": done["status"]}
    good = saved if allowed else "System Settings" in done["stderr"]
    if not cancelled:
        return {**told, "ok": good, "unseen": "macOS did not ask: take a terminal that was never asked"}
    return {**told, "ok": good and cancelled["ok"] and cancelled["kind"] == "RequestCancelled"}


def _power() -> dict[str, Any]:
    def pmset(what: str) -> str:
        return command(["/usr/bin/pmset", "-g", what], 20)["stdout"]

    told = live.awake_while_drawing(lambda: pmset("assertions"))
    ours = ["locara" in told[when].lower() for when in ("before", "during", "after")]
    states = {what: pmset(what) for what in ("batt", "custom", "therm")}
    return {"ok": ours == [False, True, False] and told["power"] is not None, **told, **states}


def _app_sandbox() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        outside = live.open_files(place)
        program = app_sandbox.build(place, [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT])
        inside = live.open_files(place, [str(program)])
    held = inside["sandbox"]["kind"] == "app-sandbox" and inside["byPath"] != "opened"
    return {"ok": outside["ok"] and inside["ok"] and held, "outside": outside, "inside": inside}


def _tests(target: str) -> dict[str, Any]:
    """Run one of the Makefile's targets with tests; each one that failed or was skipped is listed at the end."""
    asked = {"PYTEST_ADDOPTS": "-rfEs --tb=short"}
    return command(["make", target], _LONG, tail=_ALL, env={**os.environ, **asked})


PARTS: dict[str, Part] = {
    "system": Part(_system, mac=False, look="which Mac, macOS, packages"),
    "sandbox": Part(
        _sandbox,
        mac=False,
        look="told.enforced must be true: each of told.details is blocked (on macOS some are unknown) or in use",
        denials=True,
    ),
    "metal": Part(
        inside.metal,
        mac=True,
        look="both compute on the GPU inside the profile; the second's first_compiled_s is far below the first's, with"
        " cachedFiles above 0; denials name nothing that Metal wants",
        denials=True,
    ),
    "norms": Part(
        inside.norms,
        mac=True,
        look="trusted is true three times (a false one has its reason in log or stderr: the engine then works without),"
        " and own_s is below plain_s",
    ),
    "heads": Part(
        inside.heads,
        mac=True,
        look="trusted is true everywhere, and for each model both times of own are below those of plain",
    ),
    "open": Part(
        inside.opened,
        mac=True,
        look="inside: open and osascript fail; pbpaste, mdfind and curl give 0 bytes (third figure), unlike outside",
        denials=True,
    ),
    "doctor": Part(lambda: command([str(BIN / "locara-sidecar"), "doctor"], 300), mac=False, look=_DOCTOR),
    "demo": Part(
        lambda: command([str(BIN / "locara-sidecar"), "demo"], 600),
        mac=False,
        look="status 0; the last lines name engine and device (on a Mac: mlx, metal) and the times",
        denials=True,
    ),
    "kill": Part(live.kill_daemon, mac=False, look="after a SIGKILL of the daemon its engine is gone within 2 seconds"),
    "cancel": Part(
        live.cancel_in_step,
        mac=False,
        look="kind RequestCancelled, seconds below 2, sameEngine true; on a Mac model.engine is mlx; memory.engine is"
        " the footprint, as Activity Monitor shows it, residentSize is not",
    ),
    "exfat": Part(_exfat, mac=True, look="names has both pictures, star.png and star-2.png"),
    "tcc": Part(
        lambda: _tcc(Path.home() / "Documents"),
        mac=True,
        look="while macOS asks: cancelled.seconds and closedAfter are below 2; if denied, sentence names the Settings",
    ),
    "power": Part(
        _power, mac=True, look="Locara is among the assertions during the job only; power is as batt and therm say"
    ),
    "app-sandbox": Part(
        _app_sandbox,
        mac=True,
        look="inside: kind app-sandbox, byPath refused, ok (the picture was written through the descriptor); denials"
        " show what Metal lacks there",
        denials=True,
    ),
    "types": Part(
        lambda: command(["make", "types"], tail=_ALL), mac=True, look="0 errors, three times", seconds=HOUR + _SPARE
    ),
    "tests": Part(
        lambda: _tests("test"),
        mac=True,
        look="the last lines: what failed, and what was skipped and why",
        seconds=_LONG + _SPARE,
    ),
    "prepare": Part(
        lambda: commands.python("-m", "fullsize.prepared", "flux.1-schnell", seconds=_LONG),
        mac=True,
        look='the peak while preparing FLUX in 4 bits (second "its peak") is below 9 GB',
        seconds=_LONG + _SPARE,
    ),
    "steps": Part(
        lambda: commands.read(commands.python("-m", "fullsize.mlx_step", seconds=_LONG)),
        mac=True,
        look="stepSeconds of each model in told; one that does not fit this Mac says so",
        seconds=_LONG + _SPARE,
    ),
    "half": Part(
        half.half,
        mac=True,
        look="verdict: whether serve --prefer-float16 is worth it on this Mac; ratios: a step in float16 to one in"
        " bfloat16",
        seconds=_LONG + _SPARE,
    ),
    "slow": Part(lambda: _tests("test-slow"), mac=True, look="as tests", seconds=_LONG + _SPARE),
}


@contextlib.contextmanager
def _stderr_in(file: int) -> Generator[None]:
    """Within the block, daemons log to a file, not between the lines that the user reads."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def seen(part: Part) -> dict[str, Any]:
    """Run a part; return its outcome and what it found. If the part itself fails, that is what was found."""
    if part.mac and sys.platform != "darwin":
        return {"outcome": NOT_HERE, "look": part.look}
    began, since = time.monotonic(), time.time()
    result: dict[str, Any]
    with tempfile.TemporaryFile() as log, commands.bounded(part.seconds) as late:
        try:
            with _stderr_in(log.fileno()):
                result = part.run()
        except Exception as error:  # noqa: BLE001  the report matters more than this part
            where = traceback.format_exc().splitlines()[-_FRAMES:]
            result = {"ok": False, "error": f"{type(error).__name__}: {error}"[:TAIL], "where": where}
        log.seek(0)
        if said := log.read().decode(errors="replace")[-TAIL:]:
            result["log"] = said.splitlines()
    if late.is_set():
        result |= {"ok": False, "late": f"not over after {part.seconds:.0f} s; all that it had started was killed"}
    if part.denials and sys.platform == "darwin":
        result["denials"] = commands.denials(since)
    good = "ok" if "unseen" not in result else NOT_SEEN
    outcome = good if result.pop("ok") else "FAILED"
    result = commands.by_line(result)
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(since))
    return {"outcome": outcome, "look": part.look, "at": at, "took": round(time.monotonic() - began, 1), **result}


def report(names: list[str], path: Path, told: Callable[[str], None] = print) -> dict[str, Any]:
    """Run parts, and write each result to the report as soon as the part has ended.

    The report keeps the results of other parts, so an interrupted run can be continued.

    :return: the results of this run's parts, by name.
    """
    whole: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        whole = json.loads(path.read_text(encoding="utf-8"))
    commit = command(["git", "rev-parse", "HEAD"], 60)["stdout"].strip()
    for name in names:
        if not PARTS[name].mac or sys.platform == "darwin":
            told(f"{name} …")
        whole[name] = {**seen(PARTS[name]), "commit": commit}
        ordered = {one: whole[one] for one in [*PARTS, *whole] if one in whole}
        path.write_text(json.dumps(ordered, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
        outcome = whole[name]["outcome"]
        why = PARTS[name].look if outcome == "FAILED" else whole[name].get("unseen", "")
        told(f"{name}: {outcome}" + (f" ({why})" if why else ""))
    return {name: whole[name] for name in names}


def main() -> int:
    """Write the report; return 0 if nothing that ran failed."""
    parser = argparse.ArgumentParser(description="Check this project on a Mac and write one report.")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--report", type=Path, default=ROOT / "locara-mac-report.json")
    options = parser.parse_args()
    found = report(options.only, options.report)
    print(f"\nThe report, to be sent back as it is: {options.report}")
    return 1 if any(part["outcome"] == "FAILED" for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
