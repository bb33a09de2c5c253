"""Full-size transformers through the MLX engine's streaming quantization: how long it takes, and the peak memory.

For each model a synthetic transformer of the true configuration is written in bfloat16 shards. One process reads and
quantizes it as the engine does, and saves it; another reads what was saved. Each says its peak as the operating system
counts it (``VmHWM`` on Linux), the interpreter and the libraries included, and what MLX itself counts, under the limits
that the engine sets from the plan. Nothing is drawn: on a processor a step of these models takes an hour. So for a
picture of 1024 x 1024 the memory plan of a Mac is printed with the peak that it predicts.

``README.md`` says what is measured and what is predicted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import plan as plans
from locara_sidecar.machine.machine import GIB, Machine
from locara_sidecar.models import catalogue, fit
from support import synthetic
from support.measuring import Row, show

if TYPE_CHECKING:
    from locara_sidecar.machine.plan import Part, Plan, PlanRequest

GB = 1_000_000_000


class Case(NamedTuple):
    """What is prepared, for a Mac of how many GiB, and the goals in GB: the peak while preparing, and what is resident
    with it loaded. No ``mac``: the component alone, for which there is no plan."""

    model: str
    bits: int
    mac: int | None = None
    preparing: float | None = None
    resident: float | None = None


CASES = {
    "flux": [Case("flux.1-dev", 4, 24, 9.0, 8.0)],
    "sd3.5-medium": [Case("sd3.5-medium", 8, 16), Case("sd3.5-medium", 4, 16)],
    "sd3.5-large": [Case("sd3.5-large", 8, 24), Case("sd3.5-large", 4, 24)],
    "z-image-turbo": [Case("z-image-turbo", 8, 16, None, 9.0), Case("z-image-turbo", 4, 8, None, 5.0)],
    "flux.2-klein-4b": [Case("flux.2-klein-4b", 8, 16, None, 6.0), Case("flux.2-klein-4b", 4, 8)],
    "qwen3": [Case("qwen3-4b", 4)],
    "t5": [Case("t5-xxl", 4)],
}
SIDE = 1024
_FREE = 0.8
"""How much of a Mac's memory is assumed to be free."""


def mac_of(gib: int) -> Machine:
    return Machine(kind="unified", total=gib * GIB, available=int(_FREE * gib * GIB))


def asked(model: str, bits: int, machine: Machine) -> tuple[list[Part], PlanRequest]:
    """The model's parts, and what a job of 1024 x 1024 with its other defaults asks for in so many bits."""
    entry = catalogue.load().get(model)
    assert entry is not None
    ask = fit.ask_of(entry, machine)
    return entry.components, msgspec.structs.replace(ask, width=SIDE, height=SIDE, quantization=f"{bits}bit")


def predicted(case: Case) -> list[Row]:
    """The plan of the case's Mac, and the one that needs least there without making the picture another."""
    assert case.mac is not None
    machine = mac_of(case.mac)
    parts, ask = asked(case.model, case.bits, machine)
    most = machines.limit(machine) / GB
    rows: list[Row] = []
    least = min(plans.candidates(parts, msgspec.structs.replace(ask, tiling="off"), machine.kind), key=_peak)
    for what, plan in (("as planned", plans.require(parts, ask, machine)), ("needing least", least)):
        name = f"{case.model}, {case.bits} bits, {SIDE} x {SIDE}, {case.mac} GB Mac, {what}: predicted peak"
        rows.append(Row(name, plan.peak / GB, "GB", most, in_words(plan)))
    return rows


def in_words(plan: Plan) -> str:
    encoders = "leave after encoding" if plan.encoders_leave else "stay"
    words = ["text encoders " + ("are never there with the transformer" if plan.alone else encoders)]
    words += ["the transformer leaves before decoding"] * plan.denoiser_leaves
    return ", ".join([*words, "decoded in strips" if plan.tiled else "decoded whole"])


def _peak(plan: Plan) -> int:
    return plan.peak


def child(folder: Path, name: str, bits: int, mac: int | None, into: Path | None) -> dict[str, Any]:
    """In a separate process: read the component, quantized; save it if ``into`` is given."""
    import mlx.core as mx

    from locara_sidecar.engine.folder import model_folder
    from locara_sidecar.engine.mlx_engine import device
    from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
    from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer
    from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit
    from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageTransformer
    from locara_sidecar.engine.mlx_engine.tensors import quantize
    from locara_sidecar.engine.mlx_engine.texts.qwen3 import Qwen3Penultimate
    from locara_sidecar.engine.mlx_engine.texts.t5 import T5Encoder
    from locara_sidecar.machine import memory

    device.choose_device()
    if mac is not None:
        machine = mac_of(mac)
        parts, ask = asked(name, bits, machine)
        device.keep_to(plans.limits(plans.require(parts, ask, machine), machine))
    models: dict[str, Any] = {
        "FluxTransformer2DModel": Flux,
        "Flux2Transformer2DModel": Flux2Transformer,
        "SD3Transformer2DModel": Mmdit,
        "T5EncoderModel": T5Encoder,
        "ZImageTransformer2DModel": ZImageTransformer,
        "Qwen3Model": Qwen3Penultimate,
    }
    published = synthetic.PUBLISHED[name]
    bare = memory.resident()
    component = model_folder.read_component(folder, "component", published.class_name, published.stem)
    progress = model_folder.Progress(component.size, lambda _: None, lambda: None)
    started = time.monotonic()
    model = quantize.build(models[published.class_name], component, mx.bfloat16, progress, bits)
    seconds = time.monotonic() - started
    told: dict[str, Any] = {
        "bare": bare,
        "seconds": seconds,
        "peak": memory.peak(),
        "resident": memory.resident(),
        "mlx": mx.get_active_memory(),
        "mlx_peak": mx.get_peak_memory(),
    }
    if into is not None:
        quantize.save(model, component, bits, into, lambda: None)
        told["peak"] = memory.peak()
    return told


def in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "fullsize.mlx", "--child", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(case: Case, folder: Path, written: Path) -> list[Row]:
    """Prepare and read again; ``written`` holds the synthetic component."""
    ready = folder / "prepared"
    parameters = synthetic.count(synthetic.PUBLISHED[case.model])
    mac = str(case.mac or 0)
    first = in_a_process(str(written), case.model, str(case.bits), mac, str(ready))
    bytes_saved = sum(file.stat().st_size for file in ready.rglob("*.safetensors"))
    again = in_a_process(str(ready), case.model, str(case.bits), mac)
    shutil.rmtree(ready)
    name = f"{case.model} in {case.bits} bits"
    speed = f"{first['seconds']:.0f} s, {parameters / first['seconds'] / 1e6:.0f} M parameters a second"
    bare = f"of it {first['bare'] / GB:.2f} GB before any weight; MLX counts {first['mlx_peak'] / GB:.2f} GB"
    return [
        Row(f"{name}: peak while preparing", first["peak"] / GB, "GB", case.preparing, bare),
        Row(f"{name}: resident, prepared", first["resident"] / GB, "GB", case.resident, speed),
        Row(f"{name}: prepared on disk", bytes_saved / GB, "GB", None, f"{parameters / 1e9:.2f} G parameters"),
        Row(f"{name}: peak while loading what was prepared", again["peak"] / GB, "GB", case.resident),
        Row(f"{name}: loading what was prepared", again["seconds"], "s", None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES), help="these models")
    parser.add_argument("--folder", type=Path, help="an existing folder for up to 35 GB; a temporary one otherwise")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, name, bits, mac, *into = options.child
        print(json.dumps(child(Path(folder), name, int(bits), int(mac) or None, Path(into[0]) if into else None)))
        return 0
    rows: list[Row] = []
    for name in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            folder, cases = Path(temporary), CASES[name]
            needed = 2.7 * synthetic.count(synthetic.PUBLISHED[cases[0].model])
            if shutil.disk_usage(folder).free < needed:
                sys.exit(
                    f"{name} needs {needed / GB:.0f} GB in {options.folder or 'the temporary folder'}; see --folder"
                )
            size = synthetic.write(folder / "component", synthetic.PUBLISHED[cases[0].model])
            print(f"{cases[0].model}: {size / GB:.1f} GB written", file=sys.stderr, flush=True)
            for case in cases:
                rows += measure(case, folder, folder)
                rows += predicted(case) if case.mac else []
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
