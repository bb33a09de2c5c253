"""Running the acts: create a world, start an evil engine in it as the daemon starts one, and gather the outcome.
``python -m support.evil.running ENGINE [PART …]`` prints that as one line of JSON and leaves the engine running: the
caller kills this process to see that the engine ends, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_sidecar.daemon.engine_host.transport import process
from locara_sidecar.ipc import frames, framing
from support.evil import World
from support.evil.engine import ACTS, END, WORLD

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 400  # to import an engine and perform its acts; a busy machine takes a minute
_TESTS = Path(__file__).parents[2]
_BOOT = (
    "import sys; sys.path += [p for p in sys.argv[2:] if p not in sys.path]; "
    "from support.evil.engine import main; main(int(sys.argv[1]))"
)
_VICTIM = """
import os, sys, time
from support.evil import raw
made = [raw("shmget", 0, 4096, 0o600), raw("semget", 0, 1, 0o600), raw("msgget", 0, 0o600)]
print(*made, flush=True)
sys.stdin.read()
raw("shmctl", made[0], 0, None); raw("semctl", made[1], 0, 0, 0); raw("msgctl", made[2], 0, None)
"""
_IA32 = "from support.evil.kernel import thirty_two_bits; thirty_two_bits()"


def environment() -> dict[str, str]:
    """Return an environment in which a child finds the tests' modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *filter(None, sys.path)])}


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Create a user's things, and remove them afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="locara-evil-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("home", "scratch", "model"):
            (folder / name).mkdir(mode=0o700)
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        stream, datagrams, abstract = (
            socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        )
        for server in (tcp, udp, stream, datagrams, abstract):
            stack.enter_context(server)
        for server in (tcp, udp):
            server.bind(("127.0.0.1", 0))
        stream.bind(str(folder / "stream"))
        datagrams.bind(str(folder / "datagrams"))
        abstract.bind(f"\0{folder.name}")
        for server in (tcp, stream, abstract):
            server.listen(16)
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            process_group=0,
        )
        stack.enter_context(victim)
        assert victim.stdout is not None
        segment, semaphores, queue = map(int, victim.stdout.readline().split())
        made = World(
            home=str(folder / "home"),
            scratch=str(folder / "scratch"),
            model=str(folder / "model"),
            victim=victim.pid,
            segment=segment,
            semaphores=semaphores,
            queue=queue,
            tcp=tcp.getsockname()[1],
            udp=udp.getsockname()[1],
            stream=str(folder / "stream"),
            datagrams=str(folder / "datagrams"),
            abstract=folder.name,
            ia32=_runs_32_bits(),
        )
        made.lay()
        yield made


def _runs_32_bits() -> bool:
    if platform.machine() != "x86_64":
        return False
    done = subprocess.run([sys.executable, "-c", _IA32], env=environment(), capture_output=True, check=False)
    return done.returncode == 0


def state(made: World) -> dict[str, Any]:
    """Return everything that an act could have changed, as seen from outside."""
    seen: dict[str, Any] = {}
    for folder in (made.home, made.model):
        for path in (Path(folder), *sorted(Path(folder).iterdir())):
            facts = path.stat()
            content = path.read_bytes() if path.is_file() else b""
            seen[str(path)] = [facts.st_mode, facts.st_uid, facts.st_mtime_ns, facts.st_nlink, content.decode()]
    seen["attributes"] = _attributes(f"{made.home}/secret")
    with contextlib.suppress(OSError):
        seen["victim"] = [
            Path(f"/proc/{made.victim}/stat").read_text().rpartition(")")[2].split()[0] in "SR",
            os.getpriority(os.PRIO_PROCESS, made.victim),
            sorted(os.sched_getaffinity(made.victim)),
            os.sched_getscheduler(made.victim),
            Path(f"/proc/{made.victim}/limits").read_text(),
            Path(f"/proc/{made.victim}/oom_score_adj").read_text(),
        ]
    return seen


def _attributes(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(os.listxattr(path))
    return []


def in_engine(engine: str, parts: list[str], made: World, settings: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """Start an evil worker for ``engine``; return its process id and the outcome of its acts. It is left running."""
    _ask(made, parts)
    roots = [*process.worker_argv()[5:], str(_TESTS)]
    argv = [sys.executable, "-P", "-c", _BOOT, str(os.getpid()), *roots]
    popen, commands, _events, stderr = process._spawn(argv, made.scratch)
    start = frames.Start(
        version=frames.VERSION, engine=engine, scratch=made.scratch, settings=settings, readable=[made.model]
    )
    os.write(commands, framing.encode(start))
    text, until = b"", time.monotonic() + _SECONDS
    while END.encode() not in text and select.select([stderr], [], [], max(0, until - time.monotonic()))[0]:
        if not (data := os.read(stderr, 1 << 16)):
            break
        text += data
    if not os.path.exists(f"{made.scratch}/{ACTS}"):
        popen.kill()
        raise RuntimeError(f"the {engine} engine did not begin: {text.decode(errors='replace')[-2000:]}")
    return popen.pid, _told(made)


def unconfined(parts: list[str], made: World) -> list[dict[str, Any]]:
    """Perform the acts in a process without a sandbox, as a control."""
    _ask(made, parts)
    words = [sys.executable, "-m", "support.evil.engine", made.scratch]
    subprocess.run(words, env=environment(), cwd=made.scratch, capture_output=True, timeout=_SECONDS, check=False)
    with contextlib.suppress(OSError, ValueError):  # the process that was left behind
        os.kill(int(Path(made.scratch, "survivor").read_text()), 9)
    return _told(made)


def _ask(made: World, parts: list[str]) -> None:
    Path(made.scratch, WORLD).write_text(f"{made.dumped()}\n{json.dumps(parts)}\n")


def _told(made: World) -> list[dict[str, Any]]:
    """Return the last line of each act. An act that began and reported nothing more has replaced or ended its
    process."""
    rows: dict[str, dict[str, Any]] = {}
    for line in Path(made.scratch, ACTS).read_text().splitlines():
        row = json.loads(line)
        rows[f"{row['part']}: {row['name']}"] = row
    return [{"outcome": "DONE", **row} for row in rows.values()]


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what has changed."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def main() -> None:
    """Run one engine, print the outcome, and wait to be killed."""
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    engine, *parts = sys.argv[1:]
    with world() as made:
        free = unconfined(parts, made)
    with world() as made:
        before = state(made)
        pid, rows = in_engine(engine, parts, made, {})
        found = {
            "pid": pid,
            "rows": rows,
            "free": free,
            "changed": changed(before, state(made)),
            "survivor": os.path.exists(f"{made.scratch}/survivor"),
            "folder": str(Path(made.home).parent),
            "victim": made.victim,
        }
        print(json.dumps(found), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
