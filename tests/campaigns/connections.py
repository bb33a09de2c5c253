"""With everything installed nothing connects, sends or asks DNS on an internet address family.

A model of every family lies in the store, as a download would leave it. The daemon, its workers and its engine run
under strace, which sees native code too, and do everything that a host can request: every model draws and edits, with
each installed engine. A planted download of a model that is not installed must be noticed. Needs strace and permission
to trace.
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

from campaigns.processes import hub_process
from campaigns.report import Row
from locara_protocol.client import RemoteError, Sidecar
from locara_sidecar.machine.engine_choice import installed
from locara_sidecar.models import catalogue
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.imports.importing import import_model
from support.measuring import ROOT, manifest
from support.model_store import entry_data, entry_for, write_model

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl", "tiny-z-image", "tiny-flux2")
"""The fixture models, one or two for each family that the engines run."""

_FIXTURES = ROOT / "fixtures" / "models"
_TRACING = ("-f", "--seccomp-bpf", "-e", "trace=%network")
_FILES = ["*.json", "*.txt", "*.jinja", "*.safetensors"]
# a call with an address of these families, or to the local service that asks DNS for others; making a socket is a
# probe that libraries do on import, and no more
_TALKS = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg)\(.*(sa_family=AF_INET6?|systemd/resolve/)")
_MAKES = re.compile(r"\bsocket\(AF_INET6?,.*\) = \d")  # the engine's check of its own sandbox is refused one


def why_not() -> str | None:
    """Return why nothing can be traced here, or None, by trying it."""
    strace = shutil.which("strace")
    if strace is None:
        return "there is no strace"
    words = [strace, *_TRACING, "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip() or "strace failed").splitlines()[-1]


def calls_of_a_session(where: Path, *, engine: str, missing: bool = False) -> tuple[list[str], list[str]]:
    """Run a traced session that requests everything; return (calls that communicate, sockets created) of internet
    families.

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
    drawing = ("pocket", *_install_families(store, where / "catalogue"))
    trace = where / "trace"
    argv = ["strace", "-qq", *_TRACING, "-o", str(trace), "--"]
    argv += [sys.executable, "-m", "locara_sidecar", "serve", "--log-level", "error", "--engine", engine]
    argv += ["--allow-downloads", "--allow-model-management"]
    argv += ["--cache-dir", str(store.root), "--catalogue", str(where / "catalogue")]
    dropped = {"HF_HUB_OFFLINE"} if missing else {"HF_HUB_OFFLINE", "HF_ENDPOINT"}  # nothing else may keep it offline
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    app = manifest("mine", "other", "sd3.5-medium", *drawing)
    app["modalities"] = ["text-to-image", "image-to-image", "image-text-to-image"]
    app["capabilities"] |= {"fs": {"user-folder": "read-write"}, "net": False}
    with Sidecar(argv, env=env | {"HF_HOME": str(where / "home")}) as sidecar:
        sidecar.initialize(manifest=app, grants={"user-folder": str(where / "pictures")})
        for method, params in _asked(where):
            sidecar.call(method, params, timeout=60)
        for model in drawing:
            _draw_and_edit(sidecar, model)
        sidecar.call("models.remove", {"model": "mine"}, timeout=60)
        if missing:
            with contextlib.suppress(RemoteError):
                sidecar.call("models.download", {"model": "other"}, timeout=60)
    lines = trace.read_text().splitlines()
    assert any("socketpair(" in line for line in lines), "the tracer saw nothing: every event loop makes a pair"
    return [line for line in lines if _TALKS.search(line)], [line for line in lines if _MAKES.search(line)]


def _install_families(store: Store, entries: Path) -> list[str]:
    """Put the fixture models into the store, under entries that name a hub repository; return the ids."""
    for model in FAMILIES:
        data = json.loads((_FIXTURES / f"{model}.json").read_text())
        data["source"] = {"repository": f"org/{model}", "files": _FILES}
        (entries / f"{model}.json").write_text(json.dumps(data))
    known = catalogue.load(entries)
    for model in FAMILIES:
        entry = known.get(model)
        assert entry is not None
        import_model(store, entry, _FIXTURES / model, lambda _: None)
    return list(FAMILIES)


def _asked(where: Path) -> list[tuple[str, dict[str, object]]]:
    return [
        ("system.info", {}),
        ("models.list", {}),
        ("models.get", {"model": "mine"}),
        ("models.download", {"model": "mine"}),
        ("models.import", {"model": "mine", "from": str(where / "mine")}),
        ("models.verify", {"model": "mine"}),
        ("models.verify", {"model": "pocket"}),
        ("models.usage", {}),
        ("models.gc", {"maxBytes": 0, "dryRun": True}),
    ]


def _draw_and_edit(sidecar: Sidecar, model: str) -> None:
    """Draw one picture with a preview, and edit that picture from its file."""
    options = {"model": model, "steps": 1, "output": {"path": f"{model}.png"}}
    call = sidecar.start("image.generate", {"prompt": "a red circle", "options": options}, stream=True)
    assert any("preview" in message for message in call.messages())
    drawn = call.result(150)
    image = {"root": "user-folder", "path": drawn["images"][0]["relativePath"]}
    options = {"model": model, "steps": 2, "output": {"path": f"{model}-edited.png"}}
    edited = sidecar.call("image.edit", {"prompt": "a green one", "image": image, "options": options}, timeout=150)
    assert edited["images"]


def rows(where: Path, engines: list[str] | None = None) -> list[Row]:
    """Return the campaign's rows.

    :param engines: the engines that draw; None for all that are installed here.
    """
    missing = why_not()
    if missing:
        return [Row("connections", "skipped", "0", None, 0.0, f"cannot be traced here: {missing}")]
    where.mkdir()
    table: list[Row] = []
    for engine in installed() if engines is None else engines:
        began = time.monotonic()
        (where / engine).mkdir()
        talks, made = calls_of_a_session(where / engine, engine=engine)
        note = f"pocket and {len(FAMILIES)} stored models draw and edit; {len(made)} sockets of an internet family"
        name = f"connections, all installed, {engine}"
        table.append(Row(name, str(len(talks)), "0", not talks, time.monotonic() - began, note))
    began = time.monotonic()
    (where / "missing").mkdir()
    with hub_process({"org/other": write_model(where / "other", seed=2)}, where):
        talks, _ = calls_of_a_session(where / "missing", engine="fake", missing=True)
    row = Row("planted: a download", f"{len(talks)} seen", "> 0", bool(talks), time.monotonic() - began)
    return [*table, row]
