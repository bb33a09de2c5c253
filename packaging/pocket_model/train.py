"""The whole training in one command, which resumes where it stopped: start it again after every stop.

    python -m pocket_model.train [--work WORK] [--one-core]

Two processes of one thread each, at the lowest priority: one trains the transformer, the other the text encoders and
then the autoencoder (they do not depend on each other). ``--one-core`` does all in a row: autoencoder, text encoders,
transformer. Each stage writes WORK/<stage>.log, .pid and .pt; ``kill -STOP`` and ``-CONT`` on its pid pause it; ending
this command, or a stage, with SIGTERM writes its checkpoint first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from pocket_model import places

if TYPE_CHECKING:
    from pathlib import Path

LANES = (("transformer",), ("text", "autoencoder"))
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


class Lane(threading.Thread):
    """Stages run one after another, each in a process of its own."""

    def __init__(self, work: Path, stages: tuple[str, ...]) -> None:
        super().__init__()
        self._work, self._stages = work, stages
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.failed: str | None = None

    def run(self) -> None:
        for stage in self._stages:
            if self._stopped:
                return
            command = [sys.executable, "-m", f"pocket_model.train_{stage}", "--work", str(self._work)]
            with (self._work / f"{stage}.log").open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=os.environ | _ONE_THREAD, start_new_session=True
                )
            if self._process.wait():
                self.failed = stage
                return

    def stop(self) -> None:
        """Makes the running stage write its checkpoint and end; the others do not start."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()


def main() -> None:
    """Runs until everything is trained or the command is stopped."""
    parser = places.parser(__doc__)
    parser.add_argument("--one-core", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if hasattr(os, "nice"):
        os.nice(19)
    one = (("autoencoder", "text", "transformer"),)
    lanes = [Lane(options.work, stages) for stages in (one if options.one_core else LANES)]

    def stop(*_: object) -> None:
        for lane in lanes:
            lane.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    (options.work / "train.pid").write_text(f"{os.getpid()}\n")
    for lane in lanes:
        lane.start()
    for lane in lanes:
        while lane.is_alive():  # a join without a timeout would delay signals
            lane.join(0.5)
    failed = [lane.failed for lane in lanes if lane.failed]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see the logs in {options.work}")


if __name__ == "__main__":
    main()
