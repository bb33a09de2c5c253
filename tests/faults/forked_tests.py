"""Runs pytest in forks of a process that has already imported the large libraries: importing them is slower than most
tests.

A fork drops all modules of the project, so it imports them from the folder that it is given.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

_PROJECT = Path(__file__).parents[2]
_PARTS = ("protocol", "protocol/conformance", "sidecar", "packaging", "tests")
_LIBRARIES = (
    "mlx.nn",
    "torch",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.pipelines.flux",
    "diffusers.pipelines.stable_diffusion_3",
    "diffusers.pipelines.stable_diffusion_xl",
)
_WORDS = ("-q", "--tb=no", "-W", "ignore:Module already imported so cannot be rewritten")
"""The ignored warning is about a library that is also a pytest plugin."""


def import_libraries() -> None:
    """Import the installed libraries once for all forks. Not on macOS, whose own libraries do not survive a fork."""
    if sys.platform != "linux":
        return
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}  # read only during these imports
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del os.environ["HF_HUB_OFFLINE"]  # the tested code reads it, too
    if before is not None:
        os.environ["HF_HUB_OFFLINE"] = before


def run(words: list[str], folder: Path, seconds: float | None = None) -> tuple[int, list[str]]:
    """Run pytest in a copy of the project.

    :param words: pytest's arguments.
    :returns: its status (-1: it had to be stopped), and one line per failed test: its id, and perhaps the reason.
    """
    assert sys.platform != "win32"
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            status = 3  # pytest's own status for an internal error
            try:
                _become(folder, out.fileno())
                import pytest

                status = int(pytest.main([*_WORDS, *words]))
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                sys.stdout.flush()
                os._exit(status)
        status = _status(child, seconds)
        out.seek(0)
        told = out.read().decode(errors="replace")
    return status, re.findall(r"^(?:FAILED|ERROR) (.+)$", told, re.MULTILINE)


def _become(folder: Path, out: int) -> None:
    """Make this process use only the project in ``folder``, and give it its own process group."""
    assert sys.platform != "win32"
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    os.chdir(folder)
    for name, module in list(sys.modules.items()):
        if name != "__main__" and _is_of_the_project(getattr(module, "__file__", None)):
            del sys.modules[name]
    paths = [str(folder / part) for part in _PARTS]
    sys.path[:] = paths + [path for path in sys.path if not _is_of_the_project(path)]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def _is_of_the_project(path: str | None) -> bool:
    if not path or not Path(path).is_relative_to(_PROJECT):
        return False
    return not Path(path).is_relative_to(sys.prefix)


def _status(child: int, seconds: float | None) -> int:
    """Return how it ended; -1 if it took too long and was stopped, with everything that it started."""
    assert sys.platform != "win32"
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, 0 if until is None else os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else -1
        if until is not None and time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1
        time.sleep(0.05)
