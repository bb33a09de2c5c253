"""Runs commands for ``make check-mac`` and keeps their output in a form that can be judged without further help."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import psutil

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HOUR = 3600.0
TAIL = 6000
"""Characters of a command's output."""
_ABOUT = 'eventMessage CONTAINS "deny(" AND (eventMessage CONTAINS "ython" OR eventMessage CONTAINS "Compiler")'
_DENIAL = re.compile(r"(?:Sandbox: )?(\S+?)\(\d+\) (deny\(\d+\) .+)")


def command(words: list[str], seconds: float = HOUR, *, tail: int = TAIL, **more: Any) -> dict[str, Any]:
    """Run a command from the checkout's root; neither it nor the processes that it starts outlive ``seconds``.

    :param tail: how many characters to keep from the end of each output, even if it did not end in time.
    :param more: arguments for :class:`subprocess.Popen`.
    """
    began = time.monotonic()
    status: int | str
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(words, stdout=out, stderr=err, cwd=ROOT, start_new_session=True, **more)
        except OSError as error:
            status = type(error).__name__
            err.write(str(error).encode())
        else:
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = f"not over after {seconds:.0f} s"
            finally:
                _end_group(process)
        said = [_end_of(file, tail) for file in (out, err)]
    return {
        "ok": status == 0,
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "stdout": said[0],
        "stderr": said[1],
    }


def python(*words: str, seconds: float = HOUR) -> dict[str, Any]:
    """Run this interpreter with the modules of the tests and the packaging on its path."""
    places = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "packaging")])
    return command([sys.executable, *words], seconds, env={**os.environ, "PYTHONPATH": places})


def read(found: dict[str, Any]) -> dict[str, Any]:
    """Put a command's JSON output into ``told``, so that a reader of the report need not undo the quotes: all of it, or
    a list of the lines that are JSON."""
    lines: list[Any] = []
    for text in (found["stdout"], *found["stdout"].splitlines()):
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if text == found["stdout"]:
                found["told"] = value
                del found["stdout"]
                return found
            lines.append(value)
    return {**found, "told": lines} if lines else found


def denials(since: float) -> dict[str, int] | str:
    """Return what macOS's sandboxes have denied to Python and Metal's compilers since that time (as in
    ``time.time()``), and how often; a sentence if the system's log cannot be read."""
    start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    words = ["/usr/bin/log", "show", "--start", start, "--style", "compact", "--predicate", _ABOUT]
    found = command(words, 300, tail=1 << 20)
    return counted(found["stdout"]) if found["ok"] else f"the log cannot be read: {found['status']}, {found['stderr']}"


def counted(log: str) -> dict[str, int]:
    """Return the denials in the system's log, without times and process ids, and how often each occurs."""
    return dict(Counter(f"{match[1]} {match[2].strip()}" for match in map(_DENIAL.search, log.splitlines()) if match))


def by_line(found: Any) -> Any:
    """Return the same with each multi-line text as a list of lines, which JSON shows one below the other."""
    match found:
        case str():
            return found.splitlines() if "\n" in found.strip() else found
        case dict():
            return {name: by_line(value) for name, value in cast("dict[str, Any]", found).items()}
        case list():
            return [by_line(value) for value in cast("list[Any]", found)]
        case _:
            return found


@contextlib.contextmanager
def bounded(seconds: float) -> Generator[threading.Event]:
    """Kill everything that this process starts within the block, directly or not, after that many seconds, so that
    nothing waits forever. The event is set if that happened."""
    over, late = threading.Event(), threading.Event()
    before = set(psutil.Process().children())

    def watch() -> None:
        if not over.wait(seconds):
            late.set()
            for child in set(psutil.Process().children()) - before:
                with contextlib.suppress(psutil.Error):
                    for one in (*child.children(recursive=True), child):
                        one.kill()

    watching = threading.Thread(target=watch, name="bounded", daemon=True)
    watching.start()
    try:
        yield late
    finally:
        over.set()
        watching.join()


def _end_group(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(file: IO[bytes], tail: int) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")[-tail:]
