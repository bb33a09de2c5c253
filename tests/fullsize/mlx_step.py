"""One step of each family's denoiser in its published size, on MLX's own device, with and without ``mx.compile``.

    python -m fullsize.mlx_step [MODEL:BITS …] [--size N] [--tiny]

The weights are random and are made on the device, tensor by tensor, as the engine's loader would hand them over;
nothing is read from a disk. Times are of whole evaluations, the middle one of five after two that are not counted; the
first one, in which kernels are compiled, is told apart. Meant for Metal and for MLX's CUDA build: on a processor a step
of these sizes takes minutes (``--tiny`` shows that the program runs).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version
from typing import Any, cast

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten, tree_unflatten

from fullsize.mlx_families import DENOISERS
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.tensors import weights
from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer
from support import synthetic

CASES = (
    "sd3.5-medium:16",
    "flux.1-dev:16",
    "flux.1-dev:4",
    "sdxl-lightning:16",
    "z-image-turbo:16",
    "z-image-turbo:4",
    "flux.2-klein-4b:16",
    "flux.2-klein-4b:4",
)


def made(model: str, bits: int, *, tiny: bool) -> Any:
    """Return the denoiser with random weights in bfloat16, linear layers of its blocks in ``bits``."""
    denoiser = DENOISERS[model]
    told = synthetic.PUBLISHED[model].config | (denoiser.tiny if tiny else {})
    config = msgspec.convert(told, denoiser.cls.config_type)  # members that it lacks are passed over
    quantizer = AffineQuantizer(bits) if bits < 16 else None
    with weights.making_modules():
        module = denoiser.cls(config)
        shapes = {name: value.shape for name, value in cast("Any", tree_flatten)(module.parameters())}
        if quantizer is not None:
            quantizer.prepare(module)
    found: dict[str, mx.array] = {}
    for name, shape in shapes.items():
        value = (mx.random.normal(shape) * 0.02).astype(mx.bfloat16)
        parts = [(name, value)] if quantizer is None else quantizer.store(name, value)
        for part, stored in parts:
            mx.eval(stored)
            found[part] = stored
    module.update(tree_unflatten(list(found.items())))
    if hasattr(module, "split"):  # as the families do it after loading
        module.split()
    return module


def measure(model: str, bits: int, size: int, *, tiny: bool) -> dict[str, Any]:
    """Return the seconds of a step, and MLX's own count of bytes."""
    module = made(model, bits, tiny=tiny)
    evaluate = DENOISERS[model].prepare(module, size)
    held = mx.get_active_memory()

    def step() -> float:
        began = time.perf_counter()
        answer = evaluate().astype(mx.float32)
        mx.eval(answer)
        assert mx.isfinite(mx.abs(answer).mean()).item()
        return time.perf_counter() - began

    mx.reset_peak_memory()
    first, _ = step(), step()
    taken = statistics.median(step() for _ in range(5))
    peak = mx.get_peak_memory()
    mx.disable_compile()
    step()
    plain = statistics.median(step() for _ in range(5))
    if mx.default_device().type == mx.gpu:  # on a processor the engine runs without
        mx.enable_compile()
    return {
        "model": model,
        "bits": bits,
        "size": size,
        "firstSeconds": first,
        "stepSeconds": taken,
        "stepSecondsUncompiled": plain,
        "weightBytes": held,
        "peakBytes": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="MODEL:BITS")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    chosen = device.choose_device()
    print(f"MLX {version('mlx')} on {chosen}: {mx.device_info().get('device_name', '')}", flush=True)
    for case in options.cases:
        model, _, bits = case.partition(":")
        print(json.dumps(measure(model, int(bits or 16), options.size, tiny=options.tiny)), flush=True)
        mx.clear_cache()


if __name__ == "__main__":
    main()
