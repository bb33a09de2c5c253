"""A prepared form compared with quantizing while reading: a whole full-size model, through the daemon, on MLX.

    python -m fullsize.prepared MODEL [--quantization 4bit] [--precision bfloat16] [--cold] [--folder DIR] [--keep]

Writes the true configuration with random weights (``models.py``), installs it without a second copy, and loads it
three times, each in a new engine process: quantized while reading, then prepared, then from what was prepared. It
prints the seconds, and the engine's peak as the operating system counts it (Linux's ``VmHWM``, macOS's footprint). With
``--cold`` the system's file cache is dropped before each, which only root can do. Nothing is drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from locara_protocol.client import Sidecar
from locara_sidecar.machine import memory
from support.measuring import Row, command, manifest, show
from support.synthetic_models import PARTS, write_model

GB = 1_000_000_000
_HOURS = 3600.0


class Took(NamedTuple):
    """One call: its result, seconds, the engine's peak in bytes, and when each phase began."""

    result: dict[str, Any]
    seconds: float
    peak: int
    began: dict[str, float]


class _Peak(threading.Thread):
    """The engine process's peak, read ten times a second until it is stopped."""

    def __init__(self, sidecar: Sidecar) -> None:
        super().__init__(daemon=True)
        self._sidecar = sidecar
        self._over = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            pid = self._sidecar.call("ping")["engine"]["pid"]
            self.bytes = max(self.bytes, (memory.peak_of(pid) if pid else None) or 0)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.bytes


def call(sidecar: Sidecar, method: str, params: dict[str, Any]) -> Took:
    """Make a long call, in a new process."""
    peak = _Peak(sidecar)
    peak.start()
    started = time.monotonic()
    began: dict[str, float] = {}
    asked = sidecar.start(method, params, stream=True)
    for message in asked.messages():
        began.setdefault(message["phase"], time.monotonic() - started)
    result = asked.result(_HOURS)
    seconds = time.monotonic() - started
    return Took(result, seconds, peak.stop(), began)


def as_hub_cache(folder: Path, model: str) -> None:
    """Lay ``folder / model`` out as a Hugging Face cache, whose files the store links and does not copy."""
    repository = folder / "hub" / "models--synthetic--model"
    snapshot, blobs = repository / "snapshots" / "synthetic", repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in (folder / model).rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder / model)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / f"blob{number}")
        link.symlink_to(Path(*[".."] * (len(link.relative_to(repository).parts) - 1), "blobs", f"blob{number}"))
    entry_file = folder / f"{model}.json"
    entry = json.loads(entry_file.read_text(encoding="utf-8"))
    entry["source"] = {"repository": "synthetic/model", "files": ["*.json", "*.txt", "*.jinja", "*.safetensors"]}
    entry_file.write_text(json.dumps(entry), encoding="utf-8")


def measure(folder: Path, model: str, quantization: str, precision: str, *, cold: bool = False) -> int:
    def forget_files() -> None:
        if cold:
            Path("/proc/sys/vm/drop_caches").write_text("1")

    known = f"{model}-synthetic"
    how = {"model": known, "quantization": quantization, "precision": precision}
    daemon = command("--engine", "mlx", "--catalogue", str(folder), "--cache-dir", str(folder / "cache"))
    daemon += ["--allow-downloads", "--allow-model-management", "--stall-timeout", "900"]
    with Sidecar(daemon) as sidecar:
        sidecar.initialize(manifest=manifest(known), grants={"user-folder": str(folder)})
        imported = sidecar.call("models.import", {"model": known, "from": str(folder / "hub")}, timeout=_HOURS)
        forget_files()
        reading = call(sidecar, "models.load", how)
        sidecar.call("models.unload", timeout=60)
        forget_files()
        preparing = call(sidecar, "models.prepare", how)
        forget_files()
        prepared = call(sidecar, "models.load", how)
    own = preparing.result["bytes"] - preparing.result["sharedBytes"]
    name = f"{model}, {quantization}, {precision}"
    note = "files not in memory before" if cold else "files may be in memory before"
    engine_part = preparing.began["verifying"] - preparing.began["reading"]
    return show(
        [
            Row(f"{name}: loading, quantized while read", reading.seconds, "s", None, note),
            Row(f"{name}: its peak", reading.peak / GB, "GB", None, f"{imported['bytes'] / GB:.1f} GB on disk"),
            Row(f"{name}: preparing, all of it", preparing.seconds, "s", None, f"{engine_part:.0f} s in the engine"),
            Row(f"{name}: its peak", preparing.peak / GB, "GB", None),
            Row(f"{name}: the form's own bytes", own / GB, "GB", None),
            Row(f"{name}: loading what was prepared", prepared.seconds, "s", None, note),
            Row(f"{name}: its peak", prepared.peak / GB, "GB", None),
            Row(f"{name}: loading, prepared / not", prepared.seconds / reading.seconds, "x", 1.0),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=PARTS)
    parser.add_argument("--quantization", choices=("8bit", "4bit"), default="4bit")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument(
        "--cold", action="store_true", help="drop the system's cache of files before each call; as root"
    )
    parser.add_argument("--folder", type=Path, help="an empty or new folder; a temporary one otherwise")
    parser.add_argument("--keep", action="store_true", help="leave the folder; a folder that has the model is used")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fullsize-"))
    try:
        if not (folder / "hub").is_dir():
            written = write_model(folder, options.model)
            as_hub_cache(folder, options.model)
            print(f"{written / GB:.1f} GB written", file=sys.stderr, flush=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return measure(folder, options.model, options.quantization, options.precision, cold=options.cold)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
