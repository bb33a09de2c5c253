"""The cost of being able to stop inside a step: the MLX engine evaluates a step in groups of blocks (``pace.py``)
instead of as a whole.

For each architecture, synthetic models of the real depth make the same call in groups and as a whole, alternately;
figures are medians over the pairs. Submitting a group costs a fixed time, whatever its blocks compute. So it is
measured where it shows most, with nearly empty blocks, and reported as a part of a step of one second. Blocks that do
compute are measured too, for costs that are not fixed: as a ratio of wall times, which other work on the machine
disturbs by a few per cent, and of processor times, which it disturbs less. Metal is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux, FluxConfig
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit, MmditConfig
from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
from locara_sidecar.engine.mlx_engine.denoisers.unet_config import UnetConfig
from locara_sidecar.engine.mlx_engine.pace import Checkpoints, Paced, unpaced
from support.measuring import Row, show

MOST = 1.01
STEP = 1.0
"""Seconds of the step that the fixed cost is told as a part of."""

Call = Callable[[Paced], mx.array]
"""One evaluation of a denoiser, with the pace that it is to keep."""

Clock = Callable[[], tuple[float, float]]
"""Returns seconds of wall time and of processor time, from any starting point."""


class Cost(NamedTuple):
    """Medians over ``pairs``: seconds that groups ``add`` to a step (below 0 where they save some), the ratios with
    groups to without in wall and in processor time, the step without in seconds. ``groups``: of one step."""

    adds: float
    wall: float
    processor: float
    step: float
    groups: int
    pairs: int


def mmdit(*, layers: int = 24, empty: bool = False) -> Call:
    """SD3.5 Medium's depth."""
    heads, side = (1, 4) if empty else (4, 16)
    width = 64 * heads
    config = MmditConfig(
        num_layers=layers, num_attention_heads=heads, caption_projection_dim=width, joint_attention_dim=width,
        pooled_projection_dim=width, pos_embed_max_size=side, qk_norm="rms_norm",
        dual_attention_layers=tuple(range(layers // 2 + 1)),
    )  # fmt: skip
    model = Mmdit(config)
    mx.eval(model.parameters())
    latent, text = _noise(1, side, side, 16), model.words(_noise(1, 32, width))
    by = model.modulation(mx.array([500.0]), _noise(1, width)).at(0)
    mx.eval(by, text)
    return lambda pace: model(latent, text, by, pace)


def flux(*, doubles: int = 19, singles: int = 38, empty: bool = False) -> Call:
    """FLUX's depth."""
    heads, side = (1, 4) if empty else (3, 16)
    width = 64 * heads
    config = FluxConfig(
        num_layers=doubles, num_single_layers=singles, attention_head_dim=64, num_attention_heads=heads,
        joint_attention_dim=width, pooled_projection_dim=width, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    model = Flux(config)
    mx.eval(model.parameters())
    latent, text = _noise(1, side, side, 16), model.words(_noise(1, 32, width))
    by, rotation = model.modulation(mx.array([500.0]), _noise(1, width), 3.5).at(0), model.rotation(32, (side, side))
    mx.eval(by, rotation, text)
    return lambda pace: model(latent, text, by, rotation, pace=pace)


def unet(*, depths: tuple[int, int, int] = (1, 2, 10), empty: bool = False) -> Call:
    """SDXL's depth."""
    width, side = (32, 8) if empty else (64, 16)
    config = UnetConfig(
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=depths, attention_head_dim=(1, 2, 4), cross_attention_dim=128,
        addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=64 + 6 * 32, use_linear_projection=True,
    )  # fmt: skip
    model = Unet(config)
    mx.eval(model.parameters())
    latent = _noise(1, side, side, 4)
    by = model.steering(mx.array([500.0]), _noise(1, 77, 128), _noise(1, 64), mx.zeros((1, 6))).at(0)
    mx.eval(by)
    return lambda pace: model(latent, by, pace)


def real_clock() -> tuple[float, float]:
    """Seconds of wall time and of this process's processor time."""
    return time.perf_counter(), time.process_time()


def compare(
    call: Call, seconds: float, checkpoint: Callable[[], None] | None = None, clock: Clock = real_clock
) -> Cost:
    """Make ``call`` in groups and as a whole, alternately, for about that many seconds, at least three pairs.

    :param checkpoint: what each group does besides being evaluated; the engine's own checkpoint if None.
    :param clock: tests simulate one.
    """
    checkpoints = Checkpoints()
    groups = list[int]()

    def counted() -> None:
        groups.append(1)
        (checkpoint or checkpoints.checkpoint)()

    def in_groups() -> Paced:
        pace = checkpoints.pace()
        pace._checkpoint = counted  # the benchmark uses internals
        return pace

    def timed(pace: Paced) -> tuple[float, float]:
        wall, processor = clock()
        mx.eval(call(pace))
        wall_after, processor_after = clock()
        return wall_after - wall, processor_after - processor

    timed(unpaced)
    timed(in_groups())
    in_a_step = len(groups)
    adds, walls, processors, steps = list[float](), list[float](), list[float](), list[float]()
    end = clock()[0] + seconds
    while len(steps) < 3 or clock()[0] < end:
        if len(steps) % 2:
            whole, grouped = timed(unpaced), timed(in_groups())
        else:
            grouped, whole = timed(in_groups()), timed(unpaced)
        adds.append(grouped[0] - whole[0])
        walls.append(grouped[0] / whole[0])
        processors.append(grouped[1] / whole[1])
        steps.append(whole[0])
    medians = [statistics.median(values) for values in (adds, walls, processors, steps)]
    return Cost(*medians, in_a_step, len(steps))  # pyright: ignore[reportCallIssue] -- four of them


def _noise(*shape: int) -> mx.array:
    return mx.random.normal(shape)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=36, help="for each architecture")
    options = parser.parse_args()
    device.choose_device()
    rows = list[Row]()
    for name, make in (("MMDiT", mmdit), ("FLUX", flux), ("SDXL's UNet", unet)):
        empty, full = compare(make(empty=True), options.seconds / 3), compare(make(), options.seconds * 2 / 3)
        note = f"{empty.groups} groups add {empty.adds * 1000:+.1f} ms, {empty.pairs} pairs"
        rows.append(Row(f"{name}: a step of a second in groups / as a whole", 1 + empty.adds / STEP, "x", MOST, note))
        note = f"wall time; a step of {full.step * 1000:.0f} ms, {full.pairs} pairs"
        rows.append(Row(f"{name}: blocks that compute, in groups / as a whole", full.wall, "x", None, note))
        rows.append(Row(f"{name}: the same in processor time", full.processor, "x", None))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
