"""What a step of the MLX engine gives to Metal besides its matrix products, at 1024 x 1024, compared with three peers.

    make bench-mlx-work FLAGS="[--json] [--kinds] [NAME …]"

``operations.py`` counts the products, convolutions and attention of a step against what the architecture needs: it
finds unnecessary work. This counts all the rest, which on a GPU is bound by memory: kernels, the bytes that they
read and write, the part of those that only changes the layout, the part in float32. Both trace the same lazy graph
in the true configurations; the rules that make kernels of it are in ``metal_rules.py`` and ``metal_graph.py``.
Nothing runs, on Metal or elsewhere, and no weight takes memory: the whole table needs about 0.1 GB and a few seconds.

A whole step is counted: the latent in float32, the denoiser in bfloat16 (unless a case names another type), the step of
the scheduler.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from bench import graph_tracing as tracing  # before all that imports mlx.nn
from bench.graph_tracing import stand_in
from bench.peers import COUNTED, PEERS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.engine.mlx_engine.schedules.solvers import Solver


def step(
    model: Any,
    by: Any,
    channels: int,
    batch: int,
    answer: Callable[..., mx.array],
    side: int = 128,
    dtype: mx.Dtype = mx.bfloat16,
    solver: Solver | None = None,
) -> tracing.Count:
    """A step of ``model``: ``answer(rows, by)`` calls the model; ``by`` is an input, not computed within.

    :param solver: the scheduler of models that predict noise; without one it is flow matching's.
    """
    from locara_sidecar.engine.mlx_engine.families import sampling

    tracing.weightless(model, dtype)

    def call(latent: mx.array, *given: mx.array) -> list[mx.array]:
        seen = latent if solver is None else solver.seen(latent, 1)
        rows = mx.broadcast_to(seen, (batch, *latent.shape[1:])).astype(dtype)
        predicted = sampling.guided(answer(rows, refilled(by, iter(given))).astype(mx.float32), 4.5)
        if solver is not None:
            return list(solver.step(latent, predicted, 1))
        return [latent - 0.5 * predicted, latent - 0.1 * predicted]

    given = [stand_in(value.shape, value.dtype) for value in tracing.leaves(by)]
    return tracing.counted(call, stand_in((1, side, side, channels), mx.float32), *given)


def refilled(tree: Any, values: Any) -> Any:
    """Return ``tree`` with other arrays."""
    if isinstance(tree, mx.array):
        return next(values)
    parts = [refilled(part, values) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def quantized(model: Any, bits: int | None) -> Any:
    """Return the model quantized to that many bits, as the engine loads it."""
    from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer

    if bits is not None:
        AffineQuantizer(bits).prepare(model)
    return tracing.weightless(model)


def summed(dtype: mx.Dtype) -> mx.Dtype:
    """Return the type of sums between blocks."""
    return mx.float32 if dtype == mx.float16 else dtype


def _pace() -> Any:
    from locara_sidecar.engine.mlx_engine.pace import Pace

    return Pace(lambda: None)


def flux(bits: int | None = None, dtype: mx.Dtype = mx.bfloat16) -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux, FluxConfig

    model = quantized(Flux(FluxConfig(guidance_embeds=True)), bits)
    model.split()
    tracing.weightless(model, dtype)
    words = stand_in((1, 512, 3072), summed(dtype))
    by = model.modulation(stand_in((28,), mx.float32), stand_in((1, 768), dtype), 3.5).at(0)
    turns = model.rotation(512, (128, 128))
    return step(model, (by, turns), 16, 1, lambda x, given: model(x, words, *given, None, _pace()), dtype=dtype)


def sd3(bits: int | None = None, dtype: mx.Dtype = mx.bfloat16) -> tracing.Count:
    from bench.operations import MEDIUM
    from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit

    model, words = quantized(Mmdit(MEDIUM), bits), stand_in((2, 333, MEDIUM.width), summed(dtype))
    model.split()
    tracing.weightless(model, dtype)
    by = model.modulation(stand_in((28,), mx.float32), stand_in((2, 2048), dtype)).at(0)
    return step(model, by, 16, 2, lambda x, given: model(x, words, given, _pace()), dtype=dtype)


def sdxl() -> tracing.Count:
    from bench.operations import SDXL
    from locara_sidecar.engine.folder.schedulers import EulerConfig
    from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
    from locara_sidecar.engine.mlx_engine.schedules import solvers

    model = tracing.weightless(Unet(SDXL))
    sizes = stand_in((1, 77, 2048)), stand_in((1, 1280)), stand_in((1, 6))
    by = model.steering(stand_in((4,), mx.float32), *sizes).at(0)
    solver = solvers.make(EulerConfig(timestep_spacing="trailing"), 4, lambda: None)
    return step(model, by, 4, 1, lambda x, given: model(x, given, _pace()), solver=solver)


def z_image(bits: int | None = None) -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig, ZImageTransformer

    config = ZImageConfig()
    model = quantized(ZImageTransformer(config), bits)
    places, words = model.places(512, 128, 128), stand_in((1, 512, config.dim))
    by = model.modulation(stand_in((8,), mx.float32)).at(0)
    turns = (by, places)
    return step(model, turns, 16, 1, lambda x, given: model(x, words, *given, _pace()))


def flux2(bits: int | None = None) -> tracing.Count:
    from bench.operations import KLEIN
    from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer

    model = quantized(Flux2Transformer(KLEIN), bits)
    if bits is not None:
        model.split()
    rotation, words = model.rotation(512, (64, 64)), stand_in((1, 512, KLEIN.width))
    by = model.modulation(stand_in((4,), mx.float32)).at(0)
    tracing.weightless(model)
    return step(model, (by, rotation), 128, 1, lambda x, given: model(x, words, *given, None, _pace()), side=64)


def qwen3(bits: int | None = None) -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.texts.qwen3 import Qwen3Config, Qwen3Penultimate

    config = Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8
    )
    model = quantized(Qwen3Penultimate(config), bits)
    return tracing.counted(lambda ids: model(ids, pace=_pace())[0], stand_in((1, 512), mx.int32))


def t5(bits: int | None = None) -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.texts.t5 import T5Config, T5Encoder

    config = T5Config("gated-gelu", d_model=4096, d_ff=10240, num_layers=24, num_heads=64)
    model = quantized(T5Encoder(config), bits)
    return tracing.counted(lambda ids: model(ids, _pace()), stand_in((1, 512), mx.int32))


def clip() -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.texts.clip import ClipConfig, ClipTextModel

    config = ClipConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    model = tracing.weightless(ClipTextModel(config))
    return tracing.counted(lambda ids: model(ids, _pace()), stand_in((1, 77), mx.int32))


def vae(part: str, *, tiled: bool = False) -> tracing.Count:
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae, VaeConfig

    config = VaeConfig(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    model = tracing.weightless(Vae(config))
    if part == "decode":
        return tracing.counted(lambda raw: model.decode(raw, _pace(), tiled=tiled), stand_in((1, 128, 128, 16)))
    return tracing.counted(lambda pixels: list(model.encode(pixels, _pace())), stand_in((1, 1024, 1024, 3)))


def trust_own_kernels() -> None:
    """Count as on a Mac on which our kernels pass their trials."""
    from bench.operations import KLEIN, MEDIUM
    from locara_sidecar.engine.mlx_engine.denoisers.flux import FluxConfig
    from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig
    from locara_sidecar.engine.mlx_engine.kernels import group_statistics, rotated_heads

    configs = (FluxConfig(), MEDIUM, KLEIN, ZImageConfig())
    for dtype in (mx.bfloat16, mx.float16):
        group_statistics.trust(dtype)
        for heads in filter(None, (config.rotated_heads for config in configs)):
            rotated_heads.trust(rotated_heads.Use(dtype, *heads))


CASES: dict[str, Callable[[], tracing.Count]] = {
    "flux.1-dev": flux,
    "flux.1-dev-float16": lambda: flux(dtype=mx.float16),
    "flux.1-dev-4bit": lambda: flux(4),
    "sd3.5-medium": sd3,
    "sd3.5-medium-float16": lambda: sd3(dtype=mx.float16),
    "sd3.5-medium-4bit": lambda: sd3(4),
    "sdxl": sdxl,
    "z-image-turbo": z_image,
    "z-image-turbo-8bit": lambda: z_image(8),
    "flux.2-klein-4b": flux2,
    "flux.2-klein-4b-8bit": lambda: flux2(8),
    "qwen3-4b": qwen3,
    "vae-decode": lambda: vae("decode"),
    "vae-decode-strips": lambda: vae("decode", tiled=True),
    "vae-encode": lambda: vae("encode"),
    "clip-l": clip,
    "t5-xxl": t5,
    "t5-xxl-4bit": lambda: t5(4),
}
FIGURES = {
    "kernels": (1, "{:,.0f}"),
    "bytes": (1e9, "{:.4g} GB"),
    "copies": (1e9, "{:.3g} GB"),
    "float32": (0.01, "{:.2g} %"),
}


def table(counts: dict[str, tracing.Count]) -> list[str]:
    """Lines of a Markdown table: our figures and each peer's, followed by the ratio of ours to it in brackets."""
    names = [f"{peer} {version} of {date}" for peer, (version, date) in VERSIONS.items()]
    lines = ["| | | ours | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 3)]
    for case, count in counts.items():
        told = count.told()
        for figure, (unit, form) in FIGURES.items():
            cells: list[str] = []
            for peer in VERSIONS:
                theirs = PEERS.get(case, {}).get(peer, {}).get(figure)
                ratio = f" ({told[figure] / theirs:.2f})" if theirs else ""
                cells.append("–" if theirs is None else form.format(theirs / unit) + ratio)
            ours = form.format(told[figure] / unit)
            lines.append(f"| {case if figure == 'kernels' else ''} | {figure} | {ours} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--plain", action="store_true", help="without kernels of our own, as where they do not work")
    parser.add_argument("--json", action="store_true", help="figures as one line of JSON")
    parser.add_argument("--kinds", action="store_true", help="kernels, megabytes and copies by primitive, too")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    if not options.plain:
        trust_own_kernels()
    counts = {name: CASES[name]() for name in options.names or CASES}
    if options.json:
        print(json.dumps({name: count.told() for name, count in counts.items()}))
        return 0
    print("\n".join(table(counts)))
    print(f"\nThe peers were counted on {COUNTED}.")
    for name, count in counts.items() if options.kinds else ():
        print(f"\n{name}: {count.flops.total() / 1e12:.2f} TFLOP, {count.graphs} graphs")
        print("  kernels", dict(count.kernels.most_common()))
        print("  MB     ", {kind: round(size / 1e6) for kind, size in count.bytes.most_common() if size > 1e6})
        print("  copies ", {kind: round(size / 1e6) for kind, size in count.copies.most_common() if size > 1e6})
    return 0


if __name__ == "__main__":
    sys.exit(main())
