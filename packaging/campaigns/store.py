"""``make campaign-store``: kills and corrupted transfers, as many as the flags say; prints a report.

- ``--kills``: publishers that also collect, killed at random points; everything visible is hashed after each.
- ``--downloads``: downloading processes killed at random points; the last try has to complete, whole.
- ``--corruptions``: transfers with one wrong byte at a random place; each must be refused, nothing visible.

Each kind also runs against a planted fault, which must be found.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from locara_sidecar.models.store import Store
from locara_sidecar.models.transfer import Transfer
from models.helpers import download, entry_data, error_of, whole, write_model
from models.test_store import kills
from support.hub import FakeHub

_WORK = "from locara_sidecar.models.worker import main; main()"


def downloads(count: int, folder: Path, seed: int) -> dict[str, Any]:
    """Kill a worker that downloads, look at what is visible, and let every twentieth finish."""
    hub = FakeHub()
    hub.add("org/mine", write_model(folder / "model", size=400_000))
    pauses = random.Random(seed)
    store, broken, finished = Store(folder / "cache"), 0, 0
    work = json.dumps({"op": "download", "root": str(store.root), "entry": entry_data()}).encode() + b"\n"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "PYTHONPATH": ":".join(sys.path)}
    try:
        for number in range(count):
            last = number % 20 == 19
            process = subprocess.Popen([sys.executable, "-c", _WORK], stdin=-1, stdout=-1, stderr=-3, env=env)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(work)
            process.stdin.flush()
            process.stdout.readline()  # it has begun
            if not last:
                time.sleep(pauses.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
            output = process.stdout.read()
            process.stdin.close()
            process.wait()
            try:
                visible = whole(store)
                if last:
                    assert visible == ["mine"], output
                    finished += 1
                    for entry in store.entries():
                        from locara_sidecar.models import collect

                        collect.remove(store, collect.Plan([entry], [], 0), "mine")
            except AssertionError as error:
                broken += 1
                print(f"download {number}: {error}", file=sys.stderr)
    finally:
        hub.close()
    return {"killed": count - finished, "finished": finished, "broken": broken}


def corruptions(count: int, folder: Path, seed: int) -> dict[str, Any]:
    """One wrong byte a transfer, each time of the file; counts those that were not refused."""
    hub = FakeHub()
    hub.add("org/mine", write_model(folder / "model", size=2000))
    places, accepted = random.Random(seed), 0
    files = [file for file in hub.repositories["org/mine"].files.values() if file[3]]
    names = list(hub.repositories["org/mine"].files)
    for number in range(count):
        index = places.randrange(len(files))
        _, sha256, _, size, lfs = files[index]
        hub.faults = []
        hub.fail(f"/cdn/{sha256}" if lfs else names[index], "flip", at=places.randrange(size))
        store = Store(folder / f"cache{number}")
        try:
            accepted += error_of(download, store, hub).kind != "IntegrityError" or whole(store) != []
        except AssertionError:
            accepted += 1
        hub.log.clear()
        subprocess.run(["rm", "-rf", str(store.root)], check=True)
    hub.close()
    return {"transfers": count, "accepted": accepted}


def main() -> int:
    """0 when nothing was broken or accepted and each planted fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="rounds of two killed processes each (1000)")
    parser.add_argument("--downloads", type=int, default=200)
    parser.add_argument("--corruptions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report: dict[str, Any] = {
            "kills": {
                "killed": 2 * options.kills,
                "broken": kills(Store(folder / "a"), options.kills, "right", options.seed),
                "plantedFound": kills(Store(folder / "b"), 10, "planted", options.seed),
            },
            "downloads": downloads(options.downloads, folder / "c", options.seed),
            "corruptions": corruptions(options.corruptions, folder / "d", options.seed),
        }
        honest, Transfer._verify = Transfer._verify, lambda *_: None  # type: ignore[method-assign]
        report["corruptions"]["plantedFound"] = corruptions(5, folder / "e", options.seed)["accepted"]
        Transfer._verify = honest  # type: ignore[method-assign]
    print(json.dumps(report, indent=2))
    bad = report["kills"]["broken"] + report["downloads"]["broken"] + report["corruptions"]["accepted"]
    return 0 if bad == 0 and report["kills"]["plantedFound"] and report["corruptions"]["plantedFound"] else 1


if __name__ == "__main__":
    sys.exit(main())
