"""``python -m locara_sidecar.engine.sandbox --probe``: confine a process like an engine, and print what was blocked."""

from __future__ import annotations

import os
import sys
import tempfile

import msgspec

from locara_sidecar.engine.sandbox import confine


def main(arguments: list[str]) -> int:
    """Return 0 if everything forbidden was blocked, 1 if not, 2 for a usage error."""
    if arguments != ["--probe"]:
        os.write(2, b"usage: python -m locara_sidecar.engine.sandbox --probe\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="locara-probe-") as scratch:
        # only a child is confined, so that this process can still clean up
        child = os.fork() if sys.platform != "win32" else 0
        if child:
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        found = confine(scratch, [])
        os.write(1, msgspec.json.encode(found) + b"\n")
        os._exit(0 if found.enforced else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
