"""Child processes of a campaign: forked (everything is imported already, so thousands are cheap), and a hub."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def children(works: list[Callable[[], object]]) -> Iterator[list[int]]:
    """A process each; status 0 when its work returned, 1 when it raised. Those that are left at the end are killed."""
    assert sys.platform != "win32"
    pids: list[int] = []
    try:
        for work in works:
            pid = os.fork()
            if pid == 0:
                _run(work)
            pids.append(pid)
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _run(work: Callable[[], object]) -> None:
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 -- whatever it is, it must not run on in the parent's frames
        if os.environ.get("LOCARA_CAMPAIGN_DEBUG"):
            traceback.print_exc()
    finally:
        os._exit(status)


@contextlib.contextmanager
def hub_process(repositories: dict[str, Path], home: Path, *, pace: float = 0.0) -> Iterator[str]:
    """Run the fake hub in a process of its own, where this process and its children will look for it.

    :param pace: seconds to wait after every 16 KiB.
    """
    argv = [sys.executable, "-m", "support.hub", "--pace", str(pace)]
    argv += [f"{name}={folder}" for name, folder in repositories.items()]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as hub:
        assert hub.stdin is not None
        assert hub.stdout is not None
        url = hub.stdout.readline().strip()
        os.environ |= {"HF_ENDPOINT": url, "HF_HOME": str(home / "home"), "NO_PROXY": "127.0.0.1,localhost"}
        try:
            yield url
        finally:
            hub.stdin.close()
