"""``locara-sidecar doctor``: reports what this machine offers, by asking a real daemon over the real wire.

Only the sandbox is tested by a probe: a daemon knows it only once its engine has started.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_protocol.client import RemoteError, Sidecar, SidecarGoneError
from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.daemon_log import DaemonLog
from locara_sidecar.cli.output.guard import say
from locara_sidecar.machine.processes import interpreter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_NOTHING = "No problems found."


def run(options: argparse.Namespace) -> int:
    """Print the machine's state and, last, what is wrong; return 0 if at least one real engine is available, else 1."""
    console = Console()
    if options.verify:
        from locara_sidecar.cli.commands import verify_bundle

        return verify_bundle.run(console, json=options.json)
    command = interpreter.module("locara_sidecar", "serve", "--engine", options.engine, "--log-level", "error")
    if options.cache_dir:
        command += ["--cache-dir", options.cache_dir]
    with DaemonLog() as log:
        try:
            with Sidecar(command, own_group=True, stderr=log.fd) as sidecar:
                sidecar.initialize()
                info = sidecar.call("system.info", timeout=30)
        except (RemoteError, SidecarGoneError, TimeoutError) as error:
            say(console, f"the daemon does not answer: {error}")
            more = log.words(error.kind if isinstance(error, RemoteError) else None)
            if more is not None:
                console.error(more)
            return 1
    info["sandbox"] = _sandbox() or info["sandbox"]
    info["models"] = _models(Path(info["cacheRoot"]))
    info["problems"] = list(problems(info, options.engine))
    if options.json:
        console.json(info)
    else:
        _print(console, info)
    return 0 if any(engine["available"] for engine in _real(info)) else 1


def problems(info: dict[str, Any], engine: str) -> Iterator[str]:
    """Yield what is wrong, each in a line that says what to type or do; the worst first.

    :param info: the result of ``system.info``.
    :param engine: the requested engine, or ``auto``.
    """
    root = Path(info["cacheRoot"])
    if not any(engine["available"] for engine in _real(info)):
        from locara_sidecar.cli.output.tables import no_engine

        yield no_engine()
    else:
        yield from (
            f"The engine {row['name']} cannot be used: {row['reason']}"
            for row in info["engines"]
            if row["name"] == engine and not row["available"]
        )
    if root.exists() and not root.is_dir():
        yield f"{root} is a file, so no model can be stored there: move it, or name another folder (--cache-dir)."
    elif not os.access(_nearest(root), os.W_OK | os.X_OK):
        yield f"No model can be stored in {root}, which is not writable: name another folder (LOCARA_CACHE_DIR=…)."
    if not info["sandbox"]["enforced"]:
        yield f"The engine is not confined here, so use only models that you trust: {info['sandbox']['reason']}"


def _nearest(path: Path) -> Path:
    """Return the folder itself, or its nearest existing parent."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def _real(info: dict[str, Any]) -> list[dict[str, Any]]:
    return [engine for engine in info["engines"] if engine["name"] != "fake"]


def _sandbox() -> dict[str, Any] | None:
    """Return what a process found that confines itself like the engine; None if it could not tell."""
    words = interpreter.module("locara_sidecar.engine.sandbox", "--probe")
    try:
        found = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
        return json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _models(root: Path) -> list[dict[str, Any]]:
    from locara_sidecar.models import catalogue

    known = catalogue.load().with_cache(root)
    return [{"id": entry.id, "installed": known.folder(entry.id) is not None} for entry in known]


def _print(console: Console, info: dict[str, Any]) -> None:
    platform, memory, sandbox = info["platform"], info["memory"], info["sandbox"]
    gib = 1 << 30
    installed = [model["id"] for model in info["models"] if model["installed"]]
    absent = [model["id"] for model in info["models"] if not model["installed"]]
    console.line(f"locara-sidecar {info['version']}, Python {platform['python']}\n")
    told = [
        (
            "machine",
            f"{platform['system']} {platform['release']}, {platform['machine']}, {platform['cpus']} processors",
        ),
        ("memory", f"{memory['total'] / gib:.1f} GiB, {memory['available'] / gib:.1f} GiB available"),
        *(
            ("engine", f"{engine['name']}: {'' if engine['available'] else 'no. '}{engine['reason']}")
            for engine in info["engines"]
        ),
        ("sandbox", f"{sandbox['kind']}: {'' if sandbox['enforced'] else 'no. '}{sandbox['reason']}"),
        ("cache", info["cacheRoot"]),
        ("models", f"installed: {', '.join(installed) or 'none'}"),
        *([("", f"not installed: {', '.join(absent)} (locara-sidecar models download ID)")] if absent else []),
    ]
    console.facts(told)
    first, *more = info["problems"] or [_NOTHING]
    rest = f" (And {len(more)} more: see `doctor --json`.)" if more else ""
    console.line(f"\n{first}{rest}")
