"""What ways of waiting cost OpenMP's threads: ``make bench-waiting``.

A network like SD3's with many short layers (24 blocks, 3 heads) runs steps in one process for each way of waiting:
spinning for a fixed number of turns, sleeping at once, and as the engine chooses; on a quiet machine, beside one busy
program, and beside one for each core. All ways take turns, so noise affects them equally; a row is the mean of all
steps, compared with unchanged torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.busy import other_programs
from support.measuring import ROOT, Row, show

_WAYS: dict[str, dict[str, str]] = {
    "torch's own": {},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "10,000 turns": {"GOMP_SPINCOUNT": "10000"},
    "chosen": {"CHOSEN": "1"},
}
_CLEAR = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CHOSEN")


class Network:
    """Runs steps on request, in a separate process.

    :param environment: sets how its threads wait.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in _CLEAR}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.waiting", "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**inherited, "PYTHONPATH": str(ROOT / "tests"), **environment},
            text=True,
        )

    def step(self, count: int) -> list[float]:
        """Return the milliseconds of each step."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


def _serve() -> None:
    import torch
    from diffusers import SD3Transformer2DModel

    from locara_sidecar.engine.torch_engine.waiting import waiting_of

    torch.manual_seed(0)
    network: Any = SD3Transformer2DModel(
        sample_size=32,
        num_layers=24,
        num_attention_heads=3,
        joint_attention_dim=192,
        caption_projection_dim=192,
        pooled_projection_dim=64,
        pos_embed_max_size=64,
    ).eval()
    waiting = waiting_of("cpu") if "CHOSEN" in os.environ else None
    if waiting is not None:
        for block in network.transformer_blocks:
            block.register_forward_pre_hook(lambda *_: waiting.tick())
    given = (torch.randn(2, 16, 32, 32), torch.randn(2, 77, 192), torch.randn(2, 64), torch.tensor([500.0, 500.0]))
    for line in sys.stdin:
        times: list[float] = []
        if waiting is not None:
            waiting.begin()
        for _ in range(int(line)):
            began = time.perf_counter()
            with torch.no_grad():
                network(*given)
            times.append((time.perf_counter() - began) * 1e3)
        print(json.dumps(times), flush=True)


def measure(rounds: int, steps: int) -> list[Row]:
    """Measure every way of waiting under every load."""
    cores = os.cpu_count() or 1
    loads = {"quiet": 0, "one core busy": 1, f"all {cores} cores busy": cores}
    networks = {way: Network(environment) for way, environment in _WAYS.items()}
    times: dict[tuple[str, str], list[float]] = {(load, way): [] for load in loads for way in networks}
    try:
        for network in networks.values():
            network.step(3)
        for _ in range(rounds):
            for load, count in loads.items():
                with other_programs(count):
                    for way, network in networks.items():
                        times[load, way] += network.step(steps)
                        print(f"{load}, {way}: {statistics.mean(times[load, way]):.0f} ms", file=sys.stderr, flush=True)
    finally:
        for network in networks.values():
            network.close()
    rows: list[Row] = []
    for load in loads:
        own = statistics.mean(times[load, "torch's own"])
        for way in networks:
            mean = statistics.mean(times[load, way])
            rows.append(Row(f"{load}: {way}", mean / own, "x", None, f"{mean:.0f} ms a step, of {rounds} x {steps}"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _serve()
        return 0
    return show(measure(options.rounds, options.steps))


if __name__ == "__main__":
    sys.exit(main())
