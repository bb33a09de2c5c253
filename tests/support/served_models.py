"""``python -m support.served_models FOLDER [SECONDS]``: two small models on a hub on loopback, for other languages.

Prints one line of JSON, ``{"hub": address, "catalogue": folder}``, and serves until stdin ends. The models are ``open``
and ``gated``, whose licence nobody has accepted; their files come in pieces, so that there is progress to tell,
with so many seconds between them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.hub import FakeHub
from support.model_store import entry_data, write_model


def main() -> None:
    """The program."""
    folder = Path(sys.argv[1])
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    hub = FakeHub()
    hub.pace = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
    for seed, name in enumerate(("open", "gated")):
        hub.add(f"org/{name}", write_model(folder / name, seed=seed, t5=name), gated=name == "gated")
        data = entry_data(name, f"org/{name}", gated=name == "gated")
        (catalogue / f"{name}.json").write_text(json.dumps(data))
    print(json.dumps({"hub": hub.url, "catalogue": str(catalogue)}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
