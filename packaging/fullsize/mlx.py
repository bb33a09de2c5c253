"""Full-size transformers through the MLX engine's streaming quantization: how long, and how much memory at the height.

For each model a synthetic transformer of the true configuration is written in bfloat16 shards. One process reads and
quantizes it as the engine does, and saves it; another reads what was saved. Each tells its peak as the operating system
counts it (``VmHWM`` on Linux), the interpreter and the libraries included, and what MLX itself counts. Nothing is
drawn: on a processor a step of these models takes an hour.

What is measured here holds for memory on any machine with the same bytes; the speed is this machine's. On Metal the
weights lie in the same unified memory, and reading is bound by the disk.
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
from typing import Any, NamedTuple

from bench.common import Row, show
from fullsize import synthetic

GB = 1_000_000_000


class Case(NamedTuple):
    """What is prepared, and the goals: the peak while preparing, and what is resident with it loaded; in GB."""

    model: str
    bits: int
    preparing: float | None = None
    resident: float | None = None


CASES = {
    "flux": [Case("flux.1-dev", 4, 9.0, 8.0)],
    "sd3.5-medium": [Case("sd3.5-medium", 8), Case("sd3.5-medium", 4)],
    "sd3.5-large": [Case("sd3.5-large", 4)],
    "t5": [Case("t5-xxl", 4)],
}


def child(folder: Path, name: str, bits: int, into: Path | None) -> dict[str, Any]:
    """In a process of its own: read the component, quantized; save it if ``into`` is given."""
    import mlx.core as mx

    from locara_sidecar.engine import memory, model_folder
    from locara_sidecar.engine.mlx_engine import device, quantize
    from locara_sidecar.engine.mlx_engine.flux import Flux
    from locara_sidecar.engine.mlx_engine.mmdit import Mmdit
    from locara_sidecar.engine.mlx_engine.t5 import T5Encoder

    device.choose_device()
    models: dict[str, Any] = {
        "FluxTransformer2DModel": Flux,
        "SD3Transformer2DModel": Mmdit,
        "T5EncoderModel": T5Encoder,
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
    first = in_a_process(str(written), case.model, str(case.bits), str(ready))
    bytes_saved = sum(file.stat().st_size for file in ready.rglob("*.safetensors"))
    again = in_a_process(str(ready), case.model, str(case.bits))
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
        folder, name, bits, *into = options.child
        print(json.dumps(child(Path(folder), name, int(bits), Path(into[0]) if into else None)))
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
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
