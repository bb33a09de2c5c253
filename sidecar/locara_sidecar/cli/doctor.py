"""``locara-sidecar doctor``: what this machine offers, asked of a real daemon over the real wire.

Only the sandbox is asked of a probe: a daemon knows it once its engine has started.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from locara_protocol.client import RemoteError, Sidecar, SidecarGone
from locara_sidecar.cli.console import Console

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the machine's state; 0 when at least one real engine is available, else 1."""
    console = Console()
    command = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", options.engine, "--log-level", "error"]
    if options.cache_dir:
        command += ["--cache-dir", options.cache_dir]
    try:
        with Sidecar(command) as sidecar:
            sidecar.initialize()
            info = sidecar.call("system.info", timeout=30)
    except (RemoteError, SidecarGone) as error:
        console.error(f"locara-sidecar: the daemon does not answer: {error}")
        return 1
    info["sandbox"] = _sandbox() or info["sandbox"]
    models = _models()
    if options.json:
        console.line(json.dumps({**info, "models": models}, indent=2))
    else:
        _print(console, info, models)
    return 0 if any(engine["available"] for engine in info["engines"] if engine["name"] != "fake") else 1


def _sandbox() -> dict[str, Any] | None:
    """What a process that confines itself as the engine does found; None if it could not tell."""
    words = [sys.executable, "-P", "-m", "locara_sidecar.engine.sandbox", "--probe"]
    try:
        found = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
        return json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _models() -> list[dict[str, Any]]:
    from locara_sidecar.models import catalogue

    known = catalogue.load()
    return [{"id": entry.id, "installed": known.folder(entry.id) is not None} for entry in known]


def _print(console: Console, info: dict[str, Any], models: list[dict[str, Any]]) -> None:
    platform, memory, sandbox = info["platform"], info["memory"], info["sandbox"]
    gib = 1 << 30
    console.line(f"locara-sidecar {info['version']}, Python {platform['python']}")
    console.line(
        f"machine   {platform['system']} {platform['release']}, {platform['machine']}, {platform['cpus']} processors"
    )
    console.line(f"memory    {memory['total'] / gib:.1f} GiB, {memory['available'] / gib:.1f} GiB available")
    for engine in info["engines"]:
        mark = "yes" if engine["available"] else "no "
        console.line(f"engine    {engine['name']:6} {mark} {engine['reason']}")
    console.line(f"sandbox   {'yes' if sandbox['enforced'] else 'no '} {sandbox['kind']}: {sandbox['reason']}")
    console.line(f"cache     {info['cacheRoot']}")
    for model in models:
        console.line(f"model     {model['id']:14} {'installed' if model['installed'] else 'not installed'}")
