"""How much work the MLX engine gives to the device for one step, compared with what the architecture needs.

The models are built in their true configurations, with weights that are not computed; one call is traced at 1024 x 1024
without running it, and every matrix product, convolution and attention in the graph is counted. What the architecture
needs is computed from its configuration by formulas that are independent of the engine. A ratio above 1 is waste; below
1, work that the engine does once for all steps. Times say little on a machine without Metal; this shows waste on any.

What is computed once for all steps (modulation, the text's keys and values) is reported separately, per step.
Graphs are counted in a real run of the tiny models: how often a step hands work to the device.
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine import runtime as mlx_runtime
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux, FluxConfig
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Config, Flux2Transformer
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit, MmditConfig
from locara_sidecar.engine.mlx_engine.denoisers.unet import Unet
from locara_sidecar.engine.mlx_engine.denoisers.unet_config import UnetConfig
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig, ZImageTransformer
from locara_sidecar.engine.runtime import StepEvent
from locara_sidecar.ipc.frames import EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides
from support.measuring import Row, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST = 1.02
PATCHES = 64 * 64  # of a picture of 1024 x 1024
FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"


@dataclass(frozen=True)
class Work:
    """Floating-point operations, two for a multiplication with its addition: in products and convolutions, and in
    attention (both products of it)."""

    products: int = 0
    attention: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.attention + other.attention)

    def __mul__(self, times: int) -> Work:
        return Work(self.products * times, self.attention * times)

    @property
    def all(self) -> int:
        return self.products + self.attention


def linear(rows: int, before: int, after: int) -> Work:
    return Work(products=2 * rows * before * after)


def attention(queries: int, keys: int, width: int) -> Work:
    return Work(attention=4 * queries * keys * width)


# --- what the architecture needs ------------------------------------------------------------


def flux_needs(config: FluxConfig, words: int, reference: int = 0) -> Work:
    """One call. ``reference``: tokens of Kontext's picture. The words are embedded once, not in a step."""
    d, image = config.width, PATCHES + reference
    tokens = image + words
    work = linear(image, config.in_channels, d)
    block = linear(tokens, d, 12 * d) + attention(tokens, tokens, d)  # q, k, v, out and 4 d of feed-forward, twice
    work += block * (config.num_layers + config.num_single_layers)
    return work + linear(PATCHES, d, config.out_channels or config.in_channels)


def mmdit_needs(config: MmditConfig, words: int) -> Work:
    """One call; the words are embedded once, not in it."""
    d, patch = config.width, config.patch_size**2
    tokens = PATCHES + words
    work = linear(PATCHES, patch * config.in_channels, d)
    work += (linear(tokens, d, 12 * d) + attention(tokens, tokens, d)) * (config.num_layers - 1)
    # the last block's text output is not used: only its keys and values are needed
    work += linear(PATCHES, d, 12 * d) + linear(words, d, 2 * d) + attention(PATCHES, tokens, d)
    work += (linear(PATCHES, d, 4 * d) + attention(PATCHES, PATCHES, d)) * len(config.dual_attention_layers)
    return work + linear(PATCHES, d, patch * (config.out_channels or config.in_channels))


def flux2_needs(config: Flux2Config, words: int, references: int = 0) -> Work:
    """``references``: tokens of pictures to look at; they and the words are embedded once, not in a step."""
    d, hidden = config.width, config.hidden
    seen = PATCHES + references
    tokens = words + seen

    def double(rows: int) -> Work:
        return linear(rows, d, 4 * d) + linear(rows, d, 2 * hidden) + linear(rows, hidden, d)

    def single(rows: int) -> Work:
        return linear(rows, d, 3 * d + 2 * hidden) + linear(rows, d + hidden, d)

    work = linear(PATCHES, config.in_channels, d) + linear(PATCHES, d, config.out_channels or config.in_channels)
    work += (double(seen) + double(words) + attention(tokens, tokens, d)) * config.num_layers
    return work + (single(tokens) + attention(tokens, tokens, d)) * config.num_single_layers


def zimage_needs(config: ZImageConfig, words: int) -> Work:
    """``words``: a multiple of 32. Refining does not depend on time and happens once, so it is not part of a step."""
    d, patch, hidden = config.dim, 4 * config.in_channels, config.hidden
    tokens = PATCHES + words

    def block(rows: int) -> Work:
        return linear(rows, d, 4 * d) + linear(rows, d, 3 * hidden) + attention(rows, rows, d)

    work = linear(PATCHES, patch, d) + linear(PATCHES, d, patch)
    return work + block(PATCHES) * config.n_refiner_layers + block(tokens) * config.n_layers


def unet_needs(config: UnetConfig, words: int) -> Work:
    widths, last = config.block_out_channels, len(config.block_out_channels) - 1
    pixels = [(128 >> level) ** 2 for level in range(last + 1)]

    def conv(level: int, before: int, after: int, size: int = 3) -> Work:
        return linear(pixels[level], size * size * before, after)

    def resnet(level: int, before: int, after: int) -> Work:
        shortcut = conv(level, before, after, 1) if before != after else Work()
        return conv(level, before, after) + conv(level, after, after) + shortcut

    def transformer(level: int, depth: int) -> Work:
        n, d = pixels[level], widths[level]
        # to pixels q, k, v, out; to text q, out; gated feed-forward 8 d and back from 4 d
        block = linear(n, d, 4 * d) + linear(n, d, 2 * d) + linear(n, d, 8 * d) + linear(n, 4 * d, d)
        block += attention(n, n, d) + attention(n, words, d)
        return block * depth + linear(n, d, 2 * d)

    work = conv(0, config.in_channels, widths[0]) + conv(0, widths[0], config.out_channels)
    for level, kind in enumerate(config.down_block_types):
        for j in range(config.layers[level]):
            work += resnet(level, widths[max(level - 1, 0)] if j == 0 else widths[level], widths[level])
            work += transformer(level, config.down_depths(level)[j]) if kind.startswith("Cross") else Work()
        if level < last:
            work += linear(pixels[level + 1], 9 * widths[level], widths[level])
    assert config.middle_depth is not None
    work += resnet(last, widths[last], widths[last]) * 2 + transformer(last, config.middle_depth)
    for i, kind in enumerate(config.up_block_types):
        level = last - i
        for j in range(config.layers[level] + 1):
            before = widths[min(level + 1, last)] if j == 0 else widths[level]
            beside = widths[max(level - 1, 0)] if j == config.layers[level] else widths[level]
            work += resnet(level, before + beside, widths[level])
            work += transformer(level, config.up_depths(level)[j]) if kind.startswith("Cross") else Work()
        if level > 0:
            work += linear(pixels[level - 1], 9 * widths[level], widths[level])
    return work


# --- what the engine issues -----------------------------------------------------------------


def issued(call: Callable[..., Any], *arrays: mx.array) -> Work:
    """The work in the graph of ``call(*arrays)``; nothing of it runs. Attention is recognised by its softmax.

    Compiling is switched off: it changes no product, and compiled kernels cannot be exported.
    """
    mx.disable_compile()
    found: list[dict[str, Any]] = []
    mx.export_function(found.append, call, *arrays)
    primitives = [entry for entry in found if entry["type"] == "primitive"]
    softmaxes = {name for p in primitives if p["name"] == "Softmax" for name, _, _ in (*p["inputs"], *p["outputs"])}
    work = Work()
    for primitive in primitives:
        names = {name for name, _, _ in (*primitive["inputs"], *primitive["outputs"])}
        shapes = [shape for _, shape, _ in primitive["inputs"]]
        out = math.prod(primitive["outputs"][0][1])
        match primitive["name"]:
            case "Matmul" if names & softmaxes:
                work += Work(attention=2 * out * shapes[0][-1])
            case "Matmul" | "AddMM" | "QuantizedMatmul":
                work += Work(products=2 * out * shapes[0][-1])
            case "Convolution":
                work += Work(products=2 * out * math.prod(shapes[1][1:]))
            case "ScaledDotProductAttention":
                work += Work(attention=4 * out * shapes[1][-2])
            case _:
                pass
    return work


def flux_issues(config: FluxConfig, words: int, steps: int, *, kontext: bool = False) -> tuple[Work, Work]:
    """Count one call, and separately what is computed once for all steps."""
    model = Flux(config)
    latent, tokens = mx.zeros((1, 128, 128, config.in_channels // 4)), mx.zeros((1, words, config.joint_attention_dim))
    pooled, times = mx.zeros((1, config.pooled_projection_dim)), mx.zeros((steps,))
    by = model.modulation(times, pooled, 3.5).at(0)
    rotation = model.rotation(words, *[(128, 128)] * (1 + kontext))
    pictures = [latent, latent] if kontext else [latent]
    text = mx.zeros(model.words(tokens).shape)
    once = issued(lambda t, p, w: [*_leaves(model.modulation(t, p, 3.5)), model.words(w)], times, pooled, tokens)
    # a step gets its steering as an input: computing it must not be in the graph
    return issued(lambda *a: model(a[0], text, _zeros(by), rotation, *a[1:]), *pictures), once


def mmdit_issues(config: MmditConfig, words: int, steps: int) -> tuple[Work, Work]:
    model = Mmdit(config)
    latent, tokens = mx.zeros((1, 128, 128, config.in_channels)), mx.zeros((1, words, config.joint_attention_dim))
    pooled, times = mx.zeros((1, config.pooled_projection_dim)), mx.zeros((steps,))
    by = model.modulation(times, pooled).at(0)
    text = mx.zeros(model.words(tokens).shape)
    once = issued(lambda t, p, w: [*_leaves(model.modulation(t, p)), model.words(w)], times, pooled, tokens)
    return issued(lambda x: model(x, text, _zeros(by)), latent), once


def zimage_issues(config: ZImageConfig, words: int, steps: int) -> tuple[Work, Work]:
    model = ZImageTransformer(config)
    latent, tokens = mx.zeros((1, 128, 128, config.in_channels)), mx.zeros((1, words, config.cap_feat_dim))
    places, times = model.places(words, 128, 128), mx.zeros((steps,))
    by = model.modulation(times).at(0)
    text = mx.zeros(model.refined(tokens, places).shape)
    once = issued(lambda t, w: [*_leaves(model.modulation(t)), model.refined(w, places)], times, tokens)
    return issued(lambda x: model(x, text, _zeros(by), places), latent), once


def flux2_issues(config: Flux2Config, words: int, steps: int, references: int = 0) -> tuple[Work, Work]:
    """``references``: pictures to look at, as large as the one that is made."""
    model = Flux2Transformer(config)
    latent, tokens = mx.zeros((1, 64, 64, config.in_channels)), mx.zeros((1, words, config.joint_attention_dim))
    seen, times = [latent] * references, mx.zeros((steps,))
    rotation, by = model.rotation(words, *[(64, 64)] * (1 + references)), model.modulation(times).at(0)
    text, pictures = mx.zeros(model.words(tokens).shape), model.pictures(seen)
    if pictures is not None:
        pictures = mx.zeros(pictures.shape)

    def once_a_picture(t: mx.array, w: mx.array, *p: mx.array) -> list[mx.array]:
        looked_at = model.pictures(list(p))
        return [*_leaves(model.modulation(t)), model.words(w), *([] if looked_at is None else [looked_at])]

    once = issued(once_a_picture, times, tokens, *seen)
    return issued(lambda x: model(x, text, _zeros(by), rotation, pictures), latent), once


def unet_issues(config: UnetConfig, words: int, steps: int) -> tuple[Work, Work]:
    model = Unet(config)
    width = config.cross_attention_dim
    assert isinstance(width, int)
    latent, tokens = mx.zeros((1, 128, 128, config.in_channels)), mx.zeros((1, words, width))
    pooled, sizes, times = mx.zeros((1, 1280)), mx.zeros((1, 6)), mx.zeros((steps,))
    by = model.steering(times, tokens, pooled, sizes).at(0)
    once = issued(lambda *a: _leaves(model.steering(*a)), times, tokens, pooled, sizes)
    return issued(lambda x: model(x, _zeros(by)), latent), once


def _leaves(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    return [leaf for part in tree for leaf in _leaves(part)]


def _zeros(tree: Any) -> Any:
    """Return zeros in the structure of ``tree``."""
    if isinstance(tree, mx.array):
        return mx.zeros(tree.shape)
    parts = [_zeros(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


# --- graphs ---------------------------------------------------------------------------------


class Handed:
    """Count how often work is submitted to the device; waiting for submitted work does not count."""

    def __init__(self) -> None:
        self.count = 0
        self._before: tuple[Any, ...] = ()
        self._latest: tuple[Any, ...] = ()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        wait, hand_over = mx.eval, mx.async_eval

        def counted_hand_over(*arrays: Any) -> None:
            self.count += 1
            self._before, self._latest = self._latest, arrays
            hand_over(*arrays)

        def counted_wait(*arrays: Any) -> None:
            known = {id(array) for array in (*self._before, *self._latest)}
            self.count += any(id(array) not in known for array in arrays)
            wait(*arrays)

        mx.eval, mx.async_eval = counted_wait, counted_hand_over
        try:
            yield
        finally:
            mx.eval, mx.async_eval = wait, hand_over


class _NeverStops:
    def checkpoint(self) -> None:
        pass


def graphs(model: str, family: str, scheduler: str, guidance: float) -> float:
    """Return how many graphs are submitted per step, averaged over the second and the third of three steps."""
    spec = JobSpec(
        job="", prompt="a cat", negative_prompt="", width=64, height=64, steps=3, guidance=guidance, seed=1, count=1,
        scheduler=scheduler, speed="exact", tiling="off",
        preview=PreviewSpec(mode="off", every_steps=1, max_side=64, max_bytes=1, mime_type="image/webp"),
        output=EncodeSpec(mime_type="image/png", quality=90, metadata=None),
        model=ModelSpec(
            id=model, version="1", digest="", family=family, path=str(FIXTURES / model), max_sequence_length=32,
            quantization="none", precision="float32",
            sides=Sides(minimum=16, maximum=256, multiple_of=8, max_pixels=65536),
        ),
    )  # fmt: skip
    handed, at_steps = Handed(), list[int]()

    def emit(event: Any) -> None:
        if isinstance(event, StepEvent):
            at_steps.append(handed.count)

    with handed.counting():
        mlx_runtime.create().generate(spec, emit, _NeverStops())
    return (at_steps[2] - at_steps[0]) / 2


# --- the table ------------------------------------------------------------------------------

SDXL = UnetConfig(
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    use_linear_projection=True,
)  # fmt: skip
MEDIUM = MmditConfig(
    num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
    dual_attention_layers=tuple(range(13)),
)  # fmt: skip
LARGE = MmditConfig(
    num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, qk_norm="rms_norm"
)
KLEIN = Flux2Config(num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680)
TINY = (
    ("tiny-sd3", "sd3", "flow-match-euler", 4.5),
    ("tiny-flux-dev", "flux", "flow-match-euler", 3.5),
    ("tiny-flux-kontext", "flux-kontext", "flow-match-euler", 2.5),
    ("tiny-sdxl", "sdxl", "euler-trailing", 0.0),
    ("tiny-z-image", "z-image", "flow-match-euler", 0.0),
    ("tiny-flux2", "flux2", "flow-match-euler", 1.0),
)


def main() -> int:
    device.choose_device()
    dev = FluxConfig(guidance_embeds=True)
    cases = {
        "FLUX.1 schnell": (flux_needs(FluxConfig(), 256), flux_issues(FluxConfig(), 256, 4), 4),
        "FLUX.1 dev": (flux_needs(dev, 512), flux_issues(dev, 512, 28), 28),
        "FLUX.1 Kontext, editing": (flux_needs(dev, 512, PATCHES), flux_issues(dev, 512, 28, kontext=True), 28),
        "SD3.5 Medium": (mmdit_needs(MEDIUM, 333), mmdit_issues(MEDIUM, 333, 28), 28),
        "SD3.5 Large": (mmdit_needs(LARGE, 333), mmdit_issues(LARGE, 333, 28), 28),
        "Z-Image-Turbo": (zimage_needs(ZImageConfig(), 512), zimage_issues(ZImageConfig(), 512, 8), 8),
        "FLUX.2 [klein] 4B": (flux2_needs(KLEIN, 512), flux2_issues(KLEIN, 512, 4), 4),
        "FLUX.2 [klein] 4B, two references": (
            flux2_needs(KLEIN, 512, 2 * PATCHES),
            flux2_issues(KLEIN, 512, 4, 2),
            4,
        ),
        "SDXL Lightning": (unet_needs(SDXL, 77), unet_issues(SDXL, 77, 4), 4),
    }
    rows: list[Row] = []
    for name, (needs, (issues, once), steps) in cases.items():
        rows.append(Row(f"{name}: work of a step, issued / needed", issues.all / needs.all, "", MOST))
        rows.append(Row(f"{name}: products, issued / needed", issues.products / needs.products, "", MOST))
        rows.append(Row(f"{name}: attention, issued / needed", issues.attention / needs.attention, "", MOST))
        note = f"and {once.all / steps / 1e9:.1f} GFLOP a step for what is made once in {steps}"
        rows.append(Row(f"{name}: work of a step at 1024 x 1024", issues.all / 1e12, "TFLOP", None, note))
    for model, family, scheduler, guidance in TINY:
        note = "one for each block and one for the step; two at a time are on their way"
        rows.append(Row(f"{model}: graphs in a step", graphs(model, family, scheduler, guidance), "", None, note))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
