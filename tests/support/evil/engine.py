"""The evil engine's process: the unchanged worker, whose runtime performs the acts once it is imported, and then reads
nothing more, so that it does not even notice that its daemon is gone.

    python -P -c "… from support.evil.engine import main; main(PARENT)"    # the pipes of a worker; see running.py
    python -m support.evil.engine SCRATCH                                  # the acts without any sandbox: the control
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from support.evil import World, perform

if TYPE_CHECKING:
    from locara_sidecar.engine.runtime import Runtime

WORLD, ACTS, END = "world.json", "acts.jsonl", "ACTS DONE"
"""In scratch: the world with the requested parts, and the outcome. On stderr: the end."""


def do_acts(scratch: str, *, lay: bool = False) -> None:
    """Do what ``world.json`` requests; each line is written before the next act begins."""
    with open(f"{scratch}/{WORLD}") as file:
        world, parts = World.loaded(file.readline()), set(json.loads(file.readline()))
    fd = os.open(f"{scratch}/{ACTS}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(row: dict[str, Any]) -> None:
        os.write(fd, f"{json.dumps(row)}\n".encode())

    perform(world, parts, tell, lay=lay)
    os.write(2, f"\n{END}\n".encode())


def main(parent: int) -> NoReturn:
    """Run a worker with this runtime."""
    from locara_sidecar.engine import worker

    real = worker.create

    def create(engine: str, scratch: str, settings: dict[str, str]) -> Runtime:
        runtime = real(engine, scratch, settings)
        never = threading.Event()
        os._exit = lambda _: never.wait()  # so that closing its pipe no longer ends it
        do_acts(scratch)
        never.wait()
        return runtime

    worker.create = create
    worker.main(parent)


if __name__ == "__main__":
    do_acts(sys.argv[1], lay=True)
