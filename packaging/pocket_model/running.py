"""Shared by the training stages: a command line, checkpoints replaced atomically, and stopping without loss."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import torch

from pocket_model import places

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

CHECKPOINT_SECONDS = 300.0


def stage_options(about: str | None, steps: int, seed: int) -> argparse.Namespace:
    """Parse a stage's command line (``work``, ``steps``); sets one thread and the random seed."""
    parser = places.parser(about)
    parser.add_argument("--steps", type=int, default=steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return options


def follow(averages: Iterable[Tensor], weights: Iterable[Tensor], share: float) -> None:
    """Move each moving average by that share of the way to its weight."""
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage]  there is no public one for many tensors at once
        list(averages), [weight.data for weight in weights], share
    )


class Checkpoints:
    """Saves a stage's state now and then, at its end, and when the process is stopped (SIGTERM, SIGINT).

    Writes ``WORK/<stage>.pid`` too: ``kill -STOP`` and ``kill -CONT`` pause a stage, ``kill`` ends it.
    """

    def __init__(self, work: Path, stage: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._file = work / f"{stage}.pt"
        self._saved = time.monotonic()
        self._stopped = False
        self._only_one(work / f"{stage}.lock")
        (work / f"{stage}.pid").write_text(f"{os.getpid()}\n")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _only_one(self, file: Path) -> None:
        # Two trainings of one stage would overwrite each other's checkpoints. The lock ends with the process.
        self._lock = file.open("w")
        if importlib.util.find_spec("fcntl"):
            import fcntl

            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SystemExit(f"{file.stem} is being trained already ({file})") from None

    def _stop(self, *_: object) -> None:
        self._stopped = True

    def load(self) -> dict[str, Any] | None:
        """The last state, or None."""
        return torch.load(self._file) if self._file.exists() else None

    def after_step(self, state: Callable[[], dict[str, Any]], *, last: bool = False) -> None:
        """Saves if it is time to; ends the program if it was stopped."""
        if not (last or self._stopped or time.monotonic() - self._saved > CHECKPOINT_SECONDS):
            return
        new = self._file.with_suffix(".new")
        torch.save(state(), new)
        new.replace(self._file)
        self._saved = time.monotonic()
        if self._stopped:
            print("stopped; the checkpoint is written", flush=True)
            raise SystemExit(0)
