"""``python -m locara_sidecar.engine.sandbox --probe``: confine a process like an engine, and print what was blocked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import msgspec

from locara_sidecar.engine.sandbox import confine
from locara_sidecar.machine.processes import interpreter


def main(arguments: list[str]) -> int:
    """Return 0 if everything forbidden was blocked, 1 if not, 2 for a usage error."""
    match arguments:
        case ["--probe"]:
            # another process is confined, so that this one can still clean up; one that was forked and runs on
            # without a new program may not use macOS's services, and would find other things than an engine does
            with tempfile.TemporaryDirectory(prefix="locara-probe-") as scratch:
                words = interpreter.module("locara_sidecar.engine.sandbox", "--confine", scratch)
                return subprocess.run(words, check=False).returncode
        case ["--confine", scratch]:
            found = confine(scratch, [])
            os.write(1, msgspec.json.encode(found) + b"\n")
            os._exit(0 if found.enforced else 1)
        case _:
            os.write(2, b"usage: python -m locara_sidecar.engine.sandbox --probe\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
