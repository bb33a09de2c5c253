"""With everything installed nothing connects, sends or asks DNS on an internet address family.

The daemon, its workers and its engine run under strace, which sees native code too, and do all that a host can ask
for; a planted download of what is not installed must be seen. Needs strace and leave to trace.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.common import manifest
from campaigns.processes import hub_process
from campaigns.report import Row
from locara_protocol.client import RemoteError, Sidecar
from locara_sidecar.models.importing import import_model
from locara_sidecar.models.store import Store
from models.helpers import entry_data, entry_for, write_model

if TYPE_CHECKING:
    from pathlib import Path

# a call with an address of these families; making a socket is a probe that libraries do on import, and no more
_TALKS = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?")
_MAKES = re.compile(r"\bsocket\(AF_INET6?,.*\) = \d")  # the engine's check of its own sandbox is refused one


def why_not() -> str | None:
    """Why nothing can be traced here, or None. Tries it."""
    strace = shutil.which("strace")
    if strace is None:
        return "there is no strace"
    done = subprocess.run([strace, "-f", "-e", "trace=network", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip() or "strace failed").splitlines()[-1]


def calls_of_a_session(where: Path, *, engine: str, missing: bool = False) -> tuple[list[str], list[str]]:
    """Run a session in which everything is asked for, traced: (calls that talk, sockets made) of internet families.

    :param engine: which engine draws.
    :param missing: also download a model that is not installed: the planted fault.
    """
    store = Store(where / "cache")
    import_model(store, entry_for(), write_model(where / "mine"), lambda _: None)
    for folder in ("catalogue", "pictures"):
        (where / folder).mkdir()
    for name in ("mine", "other"):
        data = entry_data(name, f"org/{name}")
        (where / "catalogue" / f"{name}.json").write_text(json.dumps(data))
    trace = where / "trace"
    argv = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace), "--"]
    argv += [sys.executable, "-m", "locara_sidecar", "serve", "--log-level", "error", "--engine", engine]
    argv += ["--allow-downloads", "--allow-model-management"]
    argv += ["--cache-dir", str(store.root), "--catalogue", str(where / "catalogue")]
    dropped = {"HF_HUB_OFFLINE"} if missing else {"HF_HUB_OFFLINE", "HF_ENDPOINT"}  # nothing else may keep it offline
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    with Sidecar(argv, env=env | {"HF_HOME": str(where / "home")}) as sidecar:
        sidecar.initialize(
            manifest=manifest("pocket", "mine", "other", "sd3.5-medium"),
            grants={"user-folder": str(where / "pictures")},
        )
        for method, params in _asked(where):
            sidecar.call(method, params, timeout=60)
        if missing:
            with contextlib.suppress(RemoteError):
                sidecar.call("models.download", {"model": "other"}, timeout=60)
    lines = trace.read_text().splitlines()
    return [line for line in lines if _TALKS.search(line)], [line for line in lines if _MAKES.search(line)]


def _asked(where: Path) -> list[tuple[str, dict[str, object]]]:
    drawing = {"prompt": "a red circle on a blue background", "options": {"model": "pocket", "steps": 2}}
    return [
        ("system.info", {}),
        ("models.list", {}),
        ("models.get", {"model": "mine"}),
        ("models.download", {"model": "mine"}),
        ("models.import", {"model": "mine", "from": str(where / "mine")}),
        ("models.verify", {"model": "mine"}),
        ("models.verify", {"model": "pocket"}),
        ("models.usage", {}),
        ("image.generate", drawing),
        ("models.gc", {"maxBytes": 0, "dryRun": True}),
        ("models.remove", {"model": "mine"}),
    ]


def rows(where: Path) -> list[Row]:
    """The campaign's rows."""
    missing = why_not()
    if missing:
        return [Row("connections", "skipped", "0", None, 0.0, f"cannot be traced here: {missing}")]
    where.mkdir()
    began = time.monotonic()
    (where / "installed").mkdir()
    talks, made = calls_of_a_session(where / "installed", engine="torch")
    note = f"{len(made)} sockets of an internet family were made at all"
    table = [Row("connections, all installed", str(len(talks)), "0", not talks, time.monotonic() - began, note)]
    began = time.monotonic()
    (where / "missing").mkdir()
    with hub_process({"org/other": write_model(where / "other", seed=2)}, where):
        talks, _ = calls_of_a_session(where / "missing", engine="fake", missing=True)
    row = Row("planted: a download", f"{len(talks)} seen", "> 0", bool(talks), time.monotonic() - began)
    return [*table, row]
