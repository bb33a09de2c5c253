"""One step of each family's denoiser in its published size, on MLX's own device, with and without ``mx.compile``.

    python -m fullsize.mlx_step [MODEL:BITS …] [--size N] [--precision TYPE …] [--tiny]

The weights are random and are made on the device, tensor by tensor, as the engine's loader would hand them over;
nothing is read from a disk. Times are of whole evaluations, the median of five after
two that are not counted; the first one, which compiles kernels, is reported separately. A model whose weights alone
exceed what an engine may use on this machine is left out, and one that fails does not affect the others: each has a
line that says so. Meant for Metal
and for MLX's CUDA build: on a processor a step of these sizes takes minutes (``--tiny`` shows that the program runs).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any, cast

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten, tree_unflatten

from fullsize.mlx_families import DENOISERS
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.kernels import group_statistics, rotated_heads
from locara_sidecar.engine.mlx_engine.tensors import weights
from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer
from locara_sidecar.machine import machine as machines
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


class DoesNotFitError(Exception):
    """The weights alone are more than an engine may use here."""


def made(model: str, bits: int, *, tiny: bool, room: int | None = None, precision: str = "bfloat16") -> Any:
    """Return the denoiser with random weights in two bytes each, linear layers of its blocks in ``bits``.

    :param room: the maximum size of the weights, in bytes.
    :raises DoesNotFitError: before anything is allocated.
    """
    denoiser = DENOISERS[model]
    told = synthetic.PUBLISHED[model].config | (denoiser.tiny if tiny else {})
    config = msgspec.convert(told, denoiser.cls.config_type)  # members that it lacks are passed over
    quantizer = AffineQuantizer(bits) if bits < 16 else None
    with weights.making_modules():
        module = denoiser.cls(config)
        shapes = {name: value.shape for name, value in cast("Any", tree_flatten)(module.parameters())}
        if quantizer is not None:
            quantizer.prepare(module)
    held = [value for _, value in cast("Any", tree_flatten)(module.parameters())]
    weight_bytes = sum(value.nbytes if value.dtype == mx.uint32 else 2 * value.size for value in held)
    if room is not None and weight_bytes > room:
        raise DoesNotFitError(f"its weights take {weight_bytes} bytes, and an engine may use {room} here")
    del held
    found: dict[str, mx.array] = {}
    for name, shape in shapes.items():
        value = (mx.random.normal(shape) * 0.02).astype(device.dtype_of(precision))
        parts = [(name, value)] if quantizer is None else quantizer.store(name, value)
        for part, stored in parts:
            mx.eval(stored)
            found[part] = stored
    module.update(tree_unflatten(list(found.items())))
    if hasattr(module, "split"):  # as the families do it after loading
        module.split()
    return module


def measure(
    model: str, bits: int, size: int, *, tiny: bool, room: int | None = None, precision: str = "bfloat16"
) -> dict[str, Any]:
    """Return the seconds of a step, and MLX's own count of bytes.

    :raises DoesNotFitError: if the weights take more than ``room`` bytes.
    """
    module = made(model, bits, tiny=tiny, room=room, precision=precision)
    trusted = _tried_kernels(module, precision)
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
    try:
        step()
        plain = statistics.median(step() for _ in range(5))
    finally:
        if mx.default_device().type == mx.gpu:  # on a processor the engine runs without
            mx.enable_compile()
    return {
        "model": model,
        "bits": bits,
        "precision": precision,
        "size": size,
        "firstSeconds": first,
        "stepSeconds": taken,
        "stepSecondsUncompiled": plain,
        "weightBytes": held,
        "peakBytes": peak,
        "ownKernels": trusted,
    }


def _tried_kernels(module: Any, precision: str) -> list[str]:
    """Try our own kernels, as an engine does when it opens a model; return what those that are used are for."""
    where, dtype = "metal" if mx.metal.is_available() else "cpu", device.dtype_of(precision)
    heads = getattr(getattr(module, "config", None), "rotated_heads", None)
    tried = {
        "group norms": group_statistics.try_out(where, dtype),
        "queries and keys": heads is not None and rotated_heads.try_out(where, rotated_heads.Use(dtype, *heads)),
    }
    return [name for name, used in tried.items() if used]


def room_of(chosen: str) -> int:
    """Return the bytes that an engine may use on this machine when nothing else needs memory."""
    working_set = device.working_set(chosen)
    return machines.capacity(machines.of_engine(unified=chosen == "metal", reserved=0, working_set=working_set))


def main() -> int:
    """Print a line for each case; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="MODEL:BITS")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--precision", nargs="+", default=["bfloat16"], choices=("bfloat16", "float16"), metavar="TYPE")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    chosen, failed = device.choose_device(), False
    print(f"MLX {version('mlx')} on {chosen}: {mx.device_info().get('device_name', '')}", flush=True)
    room = room_of(chosen)
    for case, precision in itertools.product(options.cases, options.precision):
        model, _, of = case.partition(":")
        bits = int(of or 16)
        told: dict[str, Any] = {"model": model, "bits": bits, "precision": precision, "size": options.size}
        try:
            told = measure(model, bits, options.size, tiny=options.tiny, room=room, precision=precision)
        except DoesNotFitError as error:
            told["leftOut"] = str(error)
        except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
            told["error"] = f"{type(error).__name__}: {error}"
            failed = True
        print(json.dumps(told), flush=True)
        device.settle()
        mx.clear_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
