"""PyInstaller's program, for the comparison in WHY.md: the entry of a frozen sidecar, which no bundle uses.

A frozen program is not an interpreter, so this handles the options that start our processes (``-m``, ``-c``).
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Run the module or code that the arguments would pass to an interpreter; otherwise the command."""
    words = [word for word in sys.argv[1:] if word not in ("-I", "-B", "-P")]
    if words[:2] == ["-X", "utf8"]:
        words = words[2:]
    if words[:1] == ["-m"]:
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[:1] == ["-c"]:
        sys.argv = words[:1] + words[2:]
        exec(words[1], {"__name__": "__main__"})
    else:
        from locara_sidecar.__main__ import main as run

        run()


if __name__ == "__main__":
    main()
