"""Attempts inside the engine's own profile: whether Metal computes there, and whether other programs help."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_sidecar.engine.sandbox.macos import CACHE_SUFFIX
from locara_sidecar.machine.macos.darwin import USER_CACHE_DIR
from macos import commands
from support.synthetic import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Generator

COMPUTES = """
import json, sys, time
from locara_sidecar.engine import sandbox
began = time.monotonic()
found = sandbox.confine(sys.argv[1], [])
confined = time.monotonic()
import mlx.core as mx
def blocks(x):
    for _ in range(20):
        x = mx.softmax(x @ x.T, axis=-1) @ x + mx.sigmoid(x)
    return x
first = time.monotonic()
made = mx.compile(blocks)(mx.random.normal((512, 512)))
mx.eval(made)
mx.synchronize()
took = time.monotonic() - first
print(json.dumps({"enforced": found.enforced, "kind": found.kind, "details": found.details, "gpu":
                  mx.default_device().type == mx.gpu, "finite": mx.isfinite(made).all().item(),
                  "confining_s": confined - began, "importing_s": first - confined, "first_compiled_s": took,
                  "device": mx.device_info()}, default=str))
"""

NORMS = """
import json, statistics, sys, time
from locara_sidecar.engine import sandbox
found = sandbox.confine(sys.argv[1], [])
import mlx.core as mx
from mlx import nn
from locara_sidecar.engine.mlx_engine import device, norms
from locara_sidecar.engine.mlx_engine.kernels import group_statistics
side = int(sys.argv[2])
norm = nn.GroupNorm(32, 128, pytorch_compatible=True)
norm.update({"weight": mx.ones(128, mx.bfloat16), "bias": mx.zeros(128, mx.bfloat16)})
x = mx.random.normal((1, side, side, 128)).astype(mx.bfloat16)
def timed():
    norms._compiled.cache_clear()
    took = []
    for _ in range(8):
        began = time.monotonic()
        mx.eval(norms.normed_alone(norm, x, nn.silu))
        took.append(time.monotonic() - began)
    return statistics.median(took[2:])
where = device.choose_device()
mx.eval(x, norm.parameters())
plain = timed()
began = time.monotonic()
trusted = {str(dtype): group_statistics.try_out(where, dtype) for dtype in (mx.bfloat16, mx.float16, mx.float32)}
tried = time.monotonic() - began
print(json.dumps({"kind": found.kind, "device": where, "trusted": trusted, "trying_s": tried, "plain_s": plain,
                  "own_s": timed()}))
"""

HEADS = """
import json, statistics, sys, time
from locara_sidecar.engine import sandbox
found = sandbox.confine(sys.argv[1], [])
import mlx.core as mx
import numpy as np
from mlx import nn
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.kernels import rotated_heads
from locara_sidecar.engine.mlx_engine.rotation import by_axis
picture, models = int(sys.argv[2]), json.loads(sys.argv[3])
text = picture // 8
def stream(rows, tokens, count, size):
    norms = rotary.Norms(nn.RMSNorm(size, eps=1e-6), nn.RMSNorm(size, eps=1e-6))
    for norm in norms:
        norm.weight = mx.ones(size, mx.bfloat16)
    q, k, v = (mx.random.normal((rows, tokens, count * size)).astype(mx.bfloat16) for _ in range(3))
    mx.eval(q, k, v)
    return rotary.Stream(q, k, v, size, norms)
def timed(streams, rotation):
    prepared = mx.compile(lambda rotation: rotary.prepared(streams, rotation))
    took = []
    for _ in range(23):
        began = time.monotonic()
        for _ in range(8):
            mx.async_eval(*(made := prepared(rotation)))
        mx.eval(*made)
        took.append((time.monotonic() - began) / 8)
    return statistics.median(took[3:])
def both(heads, axes, rows):
    tokens = text + picture
    if axes:
        places = np.zeros((tokens, len(axes)))
        places[text:, 1:3] = np.random.default_rng(1).integers(0, 64, (picture, 2))
        rotation = rotary.for_blocks(by_axis(places, axes, 10_000.0), heads, mx.bfloat16)
        mx.eval(rotation)
    else:
        rotation = rotary.still(tokens, heads, mx.bfloat16)
    apart = [stream(rows, text, *heads), stream(rows, picture, *heads)]
    return {"two_streams_s": timed(apart, rotation), "one_stream_s": timed([stream(rows, tokens, *heads)], rotation)}
where = device.choose_device()
plain = {name: both(*shape) for name, shape in models.items()}
began = time.monotonic()
trusted = {f"{name} {dtype}": rotated_heads.try_out(where, rotated_heads.Use(dtype, *heads))
           for name, (heads, _, _) in models.items() for dtype in (mx.bfloat16, mx.float16, mx.float32)}
tried = time.monotonic() - began
print(json.dumps({"kind": found.kind, "device": where, "trusted": trusted, "trying_s": tried, "plain": plain,
                  "own": {name: both(*shape) for name, shape in models.items()}}))
"""

ASKS = """
import json, subprocess, sys
if sys.argv[1]:
    from locara_sidecar.engine import sandbox
    sandbox.confine(sys.argv[1], [])
status = {}
for words in json.loads(sys.argv[2]):
    try:
        done = subprocess.run(words, capture_output=True, timeout=20)
        status[words[0]] = [done.returncode, done.stderr.decode(errors="replace")[-200:], len(done.stdout)]
    except (OSError, subprocess.TimeoutExpired) as error:
        status[words[0]] = [type(error).__name__, str(error)[:200], 0]
print(json.dumps(status))
"""

_MUST_FAIL = (["/usr/bin/open", "-g", "locara-check://nobody"], ["/usr/bin/osascript", "-e", "1"])
_MUST_BE_EMPTY = (["/usr/bin/pbpaste"], ["/usr/bin/mdfind", "kMDItemContentType == com.apple.application-bundle"])


def metal() -> dict[str, Any]:
    """Compute inside the profile, in two processes, the first of which finds no compiled kernels."""
    cache = _own_cache()
    if cache is not None:
        shutil.rmtree(cache, ignore_errors=True)
    starts: list[dict[str, Any]] = []
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="locara-check-") as scratch:
            found = commands.read(commands.python("-c", COMPUTES, scratch, seconds=600))
        kept = [path for path in cache.rglob("*") if path.is_file()] if cache is not None else []
        starts.append({**found, "cachedFiles": len(kept)})
    return {"ok": all(map(computes, starts)), "first": starts[0], "second": starts[1]}


def norms() -> dict[str, Any]:
    """Try the engine's own kernels for group norms inside the profile, and time a norm of a decode with and without."""
    return _tried(NORMS, "1024")


def heads() -> dict[str, Any]:
    """Likewise try its kernel for queries and keys, and time what each model's blocks do before attention."""
    return _tried(HEADS, "4096", json.dumps(shapes_of_heads()))


def shapes_of_heads() -> dict[str, tuple[tuple[int, int], list[int] | None, int]]:
    """Return, for each published model that uses the kernel, the number of its heads and their size, the axes that
    share out a head (None: without positions), and the rows of a step: two with guidance.
    """
    found: dict[str, tuple[tuple[int, int], list[int] | None, int]] = {}
    for name, (_, _, config) in PUBLISHED.items():
        axes: list[int] | None = config.get("axes_dims_rope", config.get("axes_dims"))
        if axes is not None:
            count: int = config["n_heads" if "n_heads" in config else "num_attention_heads"]
            found[name] = (count, sum(axes)), axes, 1
        elif config.get("qk_norm") == "rms_norm":
            found[name] = (config["num_attention_heads"], config["attention_head_dim"]), None, 2
    return found


def _tried(program: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="locara-check-") as scratch:
        found = commands.read(commands.python("-c", program, scratch, *arguments, seconds=600))
    told: dict[str, Any] = found.get("told", {})
    return {**found, "ok": bool(found["ok"] and told and all(told["trusted"].values()))}


def computes(start: dict[str, Any]) -> bool:
    """Whether it computed on the GPU, inside a profile; another part checks whether the profile blocks everything."""
    told: dict[str, Any] = start.get("told", {})
    return bool(start["ok"] and told) and (told["kind"], told["gpu"], told["finite"]) == ("seatbelt", True, True)


def opened() -> dict[str, Any]:
    """Let other programs open, copy, find and fetch something, inside the profile and, for comparison, outside.

    Each is reported with its status, the end of its messages, and the number of bytes that it returned.
    """
    with _served() as address, tempfile.TemporaryDirectory(prefix="locara-check-") as scratch:
        empty = [*_MUST_BE_EMPTY, ["/usr/bin/curl", "-sS", "-m", "5", address]]
        inside = _ask(scratch, [*_MUST_FAIL, *empty])
        outside = _ask("", empty)
    tried: dict[str, list[Any]] = inside.get("told", {})
    before: dict[str, list[Any]] = outside.get("told", {})
    ok = bool(tried and before) and is_helpless(tried) and before["/usr/bin/curl"][2] > 0
    return {"ok": ok, "inside": inside, "outside": outside}


def is_helpless(tried: dict[str, list[Any]]) -> bool:
    """Whether no program did what was requested."""
    failed = [tried[words[0]][0] != 0 for words in _MUST_FAIL]
    others = set(tried) - {words[0] for words in _MUST_FAIL}
    return all(failed) and not any(tried[name][2] for name in others)


def _ask(scratch: str, tried: list[list[str]]) -> dict[str, Any]:
    return commands.read(commands.python("-c", ASKS, scratch, json.dumps(tried), seconds=200))


def _own_cache() -> Path | None:
    """Return the folder where the engine lets Metal keep compiled kernels; None on other systems."""
    if sys.platform == "win32":
        return None
    with contextlib.suppress(ValueError, OSError):
        found = os.confstr(USER_CACHE_DIR)  # pyright: ignore[reportArgumentType]  (numbers are taken, too)
        return Path(found) / CACHE_SUFFIX if found else None
    return None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextlib.contextmanager
def _served() -> Generator[str]:
    """Serve something on this machine; return its address."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "index.html").write_text("reached\n", encoding="utf-8")
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/"
            finally:
                server.shutdown()
