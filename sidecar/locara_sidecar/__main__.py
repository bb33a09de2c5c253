"""``locara-sidecar`` and ``python -m locara_sidecar``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name; ``serve`` when they name none."""
    from locara_sidecar.cli.arguments import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
