"""Records the examples of the OpenRPC document from a session with the fake engine (``make transcript``)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from locara_protocol.generation import examples
from support.openrpc_examples import REQUESTS, play


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = play(Path(folder), REQUESTS)
    recorded = {method: {"params": REQUESTS[method], "result": result} for method, result in results.items()}
    for step in (job["last"] for job in recorded["jobs.list"]["result"]["jobs"]):
        del step["preview"]  # a picture, which shows nothing here
    Path(examples.__file__).with_suffix(".json").write_text(json.dumps(recorded, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
