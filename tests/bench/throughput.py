"""``make bench-download``: our download of a model, hashed and synced, against huggingface_hub's own of the same files.

A hub on loopback (a process of its own, which sends files with sendfile) serves them; the two take turns, each
in a fresh process that starts its clock once everything is imported. huggingface_hub neither hashes nor syncs what
it fetches; what hashing afterwards would add to it is shown beside the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.measuring import ROOT, Row, show
from support.model_store import entry_data, write_model

_FILES = (0.3, 0.25, 0.2, 0.15, 0.07, 0.03)  # shares of the bytes: transformer in shards, encoders, decoder
_BLOCK = 1 << 24

OURS = """
import sys, time
from locara_sidecar.models.downloads import download
from locara_sidecar.models.worker import Work, perform
import msgspec
work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
began = time.perf_counter()
perform(work, lambda message: None, lambda stop: None)
print(time.perf_counter() - began)
"""
THEIRS = """
import hashlib, sys, time
from pathlib import Path
from huggingface_hub import snapshot_download
began = time.perf_counter()
folder = snapshot_download("org/bench", cache_dir=sys.argv[1])
print(time.perf_counter() - began)
began = time.perf_counter()
for path in Path(folder).rglob("*"):
    if path.is_file():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
print(time.perf_counter() - began)
"""


def write_files(folder: Path, size: int) -> None:
    """Write a model of ``size`` bytes in several files; well-formed, with random contents."""
    write_model(folder, size=1000)
    block = random.Random(1).randbytes(_BLOCK)
    for number, share in enumerate(_FILES):
        path = folder / "transformer" / f"part{number}.safetensors"
        left = int(size * share)
        header = json.dumps({"w": {"dtype": "U8", "shape": [left], "data_offsets": [0, left]}}).encode()
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + number.to_bytes(1, "little"))
            left -= 1
            while left > 0:
                left -= file.write(block[: min(left, _BLOCK)])


def measure(where: Path, size: int, rounds: int) -> list[Row]:
    """Measure both alternately, ``rounds`` times."""
    write_files(where / "served", size)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "HF_HOME": str(where / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    env |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost"}
    argv = [sys.executable, "-m", "support.hub", f"org/bench={where / 'served'}"]
    ours: list[float] = []
    theirs: list[float] = []
    hashing: list[float] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as hub:
        assert hub.stdin is not None
        assert hub.stdout is not None
        env["HF_ENDPOINT"] = hub.stdout.readline().strip()
        work = {"op": "download", "root": str(where / "ours"), "entry": entry_data("bench", "org/bench")}
        for turn in range(2 * rounds):
            if sys.platform != "win32":
                os.sync()
            if turn % 4 in (0, 3):  # the one that goes first changes
                (seconds,) = _clocked(OURS, [], json.dumps(work), env)
                ours.append(seconds)
            else:
                seconds, more = _clocked(THEIRS, [str(where / "theirs")], "", env)
                theirs.append(seconds)
                hashing.append(more)
            for name in ("ours", "theirs"):
                assert not (where / name).exists() or _size(where / name) >= _size(where / "served")
                shutil.rmtree(where / name, ignore_errors=True)
        hub.stdin.close()
    median, other = statistics.median(ours), statistics.median(theirs)
    note = f"{size / median / 1e6:.0f} MB/s against {size / other / 1e6:.0f}; {rounds} rounds of {size / 1e9:g} GB"
    hashed = statistics.median(a + b for a, b in zip(theirs, hashing, strict=True))
    return [
        Row("download, hashed and synced / huggingface_hub's own", median / other, "x", 1.1, note),
        Row("  / huggingface_hub's own and hashing its files then", median / hashed, "x", None),
    ]


def _size(folder: Path) -> int:
    """Count the bytes below a folder, each file once however many names it has."""
    stats = (path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())


def _clocked(script: str, arguments: list[str], text: str, env: dict[str, str]) -> list[float]:
    argv = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(argv, input=text, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def main() -> int:
    """Return 0 if the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2_000_000_000, help="size of the model (2,000,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--folder", help="where to write (the temporary folder)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="locara-bench-", dir=options.folder) as name:
        rows = measure(Path(name), options.bytes, options.rounds)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
