"""All models at full size on a CUDA device: through the daemon and with diffusers' own pipeline, in one run.

    python -m fullsize.accelerator [MODEL[:QUANTIZATION] …] [--size N] [--steps N] [--folder DIR] [--compile MODEL …]

For each model the daemon draws four pictures: the first one loads, the second is timed, the last two have previews, and
the last one, which needs no more preparation, is timed. Then diffusers draws in a separate process
(``fullsize.plain``), which has loaded meanwhile, so there must be room for both; the two never compute at once.
Memory is a process's peak, of main memory and device together. Weights are random (``models.py``), pictures
nonsense. The next model is written while one is measured; a folder is deleted after its measurement. Prints one row per
model, then one line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fullsize.run import plans_in
from locara_protocol.client import RemoteError, Sidecar, SidecarGoneError
from support.measuring import ROOT, manifest
from support.synthetic_models import PARTS, write_model

GB = 1_000_000_000
PROMPTS = (
    "a red circle on the blue square",
    "a green cat with a tree",
    "a black dog in the white square",
    "a red cat on the green tree",
)
Figures = dict[str, Any]


def ours(
    folder: Path, model: str, options: dict[str, Any], engine: str, other: subprocess.Popen[str] | None, *flags: str
) -> Figures:
    """Draw four pictures through the daemon; ``other`` must be idle from the second one on.

    :param flags: of the daemon, too.
    """
    known, out = f"{model}-synthetic", folder / "out"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", engine, "--log-level", "info"]
    command += ["--catalogue", str(folder), "--cache-dir", str(folder / "cache"), "--stall-timeout", "600", *flags]
    params: dict[str, Any] = {}
    method = "image.generate"
    if "kontext" in model:
        method, params = "image.edit", {"image": {"data": _red(options["width"]), "mimeType": "image/png"}}
    results: list[Figures] = []
    with tempfile.TemporaryFile() as errors:
        with Sidecar(command, stderr=errors) as sidecar:
            app = manifest(known) | {"modalities": ["text-to-image", "image-text-to-image"]}
            sidecar.initialize(manifest=app, grants={"user-folder": str(out)})
            for prompt, mode in zip(PROMPTS, ("off", "off", "auto", "auto"), strict=True):
                job = options | {"model": known, "preview": {"mode": mode}}
                if results and other is not None and other.stdout is not None:
                    other.stdout.readline()  # "loaded"
                    other = None
                results.append(sidecar.call(method, {"prompt": prompt, "options": job} | params, timeout=600))
        plan = plans_in(errors)[0]
    cold, warm, _, shown = (result["timings"] for result in results)
    steps = options["steps"]
    return {
        "device": results[0]["model"]["device"],
        "precision": results[0]["model"]["precision"],
        "quantization": results[0]["model"]["quantization"],
        "load": cold["loadMs"] / 1000,  # beside the other process
        "first": cold["denoiseMs"] / 1000,  # compiles, if requested
        "encode": warm["encodeMs"] / 1000,
        "step": warm["denoiseMs"] / 1000 / steps,
        "stepWithPreviews": shown["denoiseMs"] / 1000 / steps,
        "decode": warm["decodeMs"] / 1000,
        "picture": warm["totalMs"] / 1000,
        "peak": results[1]["peakMemoryBytes"],
        "plan": plan,
    }


def start_theirs(folder: Path, model: str, options: dict[str, Any], *, compiled: bool) -> subprocess.Popen[str]:
    """Start a process that will do the same with diffusers alone; it imports its libraries and waits."""
    command = [sys.executable, "-m", "fullsize.plain", str(folder / model)]
    command += ["--size", str(options["width"]), "--steps", str(options["steps"]), *(["--compile"] if compiled else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    paths = [str(ROOT / "tests"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def theirs(loaded: subprocess.Popen[str]) -> Figures:
    out, errors = loaded.communicate("go\n")
    return {"failed": errors[-1500:]} if loaded.returncode else json.loads(out.splitlines()[-1])


def _red(size: int) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def row(name: str, mine: Figures, plain: Figures) -> str:
    """One line of the table in tests/fullsize/README.md."""
    cells = [name, f"{mine['step']:.3f}", f"{mine['stepWithPreviews']:.3f}"]
    if "step" in plain:
        cells += [f"{plain['step']:.3f}", f"{mine['step'] / plain['step']:.3f}"]
    else:
        cells += ["", ""]
    cells += [f"{mine['picture']:.2f}", f"{plain['picture']:.2f}" if "picture" in plain else ""]
    cells += [f"{mine['peak'] / GB:.1f}", f"{plain['peak'] / GB:.1f}" if "peak" in plain else ""]
    if "compiledStep" in plain:
        cells += [f"compiled {plain['compiledStep']:.3f}, first call {plain['compiling']:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(PARTS), metavar="MODEL[:QUANTIZATION]")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a side")
    parser.add_argument("--steps", type=int, help="at most; else the model's default")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder otherwise")
    parser.add_argument("--compile", nargs="*", default=[], help="models that both also draw with compiled blocks")
    parser.add_argument("--engine", choices=("torch", "mlx"), default="torch", help="mlx: nothing beside it")
    parser.add_argument("--json", type=Path, help="write all figures here, too, after each model")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fullsize-"))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(model, quantization or "none") for model, _, quantization in (m.partition(":") for m in options.models)]
    order = list(dict.fromkeys(model for model, _ in wanted))
    sys.path.append(str(ROOT / "fixtures"))
    import make_models  # before the thread: it imports torch

    del make_models
    figures: dict[str, Figures] = {}
    failed = 0
    try:
        with ThreadPoolExecutor(1) as writer:
            writing: Future[int] | None = writer.submit(write_model, folder, order[0])
            for place, model in enumerate(order):
                assert writing is not None
                began = time.monotonic()
                writing.result()
                print(f"waited {time.monotonic() - began:.0f} s for {model}", file=sys.stderr, flush=True)
                following = order[place + 1] if place + 1 < len(order) else None
                writing = writer.submit(write_model, folder, following) if following else None
                default = json.loads((folder / f"{model}.json").read_text())["defaults"]["steps"]
                job = {"width": options.size, "height": options.size, "seed": 1}
                job["steps"] = min(default, options.steps or default)
                for quantization in [quantization for name, quantization in wanted if name == model]:
                    name = f"{model}:{quantization}"
                    beside = quantization == "none" and options.engine == "torch"
                    other = start_theirs(folder, model, job, compiled=model in options.compile) if beside else None
                    try:
                        mine = ours(folder, model, job | {"quantization": quantization}, options.engine, other)
                        plain = theirs(other) if other is not None else {}
                        figures[name] = {"steps": job["steps"], "locara": mine, "diffusers": plain}
                        print(row(f"{name}, {job['steps']} steps", mine, plain), flush=True)
                        if beside and model in options.compile:
                            fast = ours(folder, model, job | {"quantization": quantization}, "torch", None, "--compile")
                            figures[name]["compiled"] = fast
                            text = f"{name}, --compile, first loop {fast['first']:.1f} s"
                            print(row(text, fast, {}), flush=True)
                        print(plain.get("failed", ""), mine["device"], mine["plan"], file=sys.stderr, flush=True)
                    except (
                        RemoteError,
                        SidecarGoneError,
                        OSError,
                        KeyError,
                        ValueError,
                    ) as error:  # the others are still worth measuring
                        failed += 1
                        print(f"{name}: {error!r}", file=sys.stderr, flush=True)
                    finally:
                        if other is not None:
                            other.kill()
                    if options.json:
                        options.json.write_text(json.dumps(figures, indent=1))
                if writing is not None:
                    writing.result()  # it may link components of this one
                shutil.rmtree(folder / model)
                (folder / f"{model}.json").unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
