"""The count of what is handed to Metal: known calls, and the engine's own figures against their goals.

Tracing wraps MLX before anything imports ``mlx.nn``, so it runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import mlx.core as mx
import pytest

from bench.metal_graph import Array, rows, viewed
from bench.peers import COUNTED, PEERS, VERSIONS

TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])}

PROBES = """
import json
from functools import partial
import mlx.core as mx
from bench.graph_tracing import counted, stand_in
from mlx import nn

f32 = mx.float32
x, table = stand_in((64, 128), f32), stand_in((1000, 8), f32)
wide = stand_in((2, 8, 10_000), f32)
heads = stand_in((1, 2, 16, 64))
fused = mx.compile(lambda a: a[:, :64] * a[:, 64:] + 1)
chain = mx.compile(lambda a: mx.exp(a) * 2 + 1)
pair = mx.compile(lambda a, b: (a + b) @ b.T)
own = lambda a: mx.fast.metal_kernel("own", ["a"], ["b"], "")(
    inputs=[a], grid=(1, 1, 1), threadgroup=(1, 1, 1), output_shapes=[(4,)], output_dtypes=[f32])[0]

def replaced(a, part):
    a[:16] = part
    return a

told = {
    "a part replaced": counted(replaced, x, stand_in((16, 128), f32)),
    "padded": counted(lambda a: mx.pad(a, [(0, 64), (0, 0)]), x),
    "views": counted(lambda a: a.T[:5].reshape(5, 8, 8), x),
    "copy": counted(lambda a: a.T.reshape(-1), x),
    "one of three": counted(chain, x),
    "three": counted(lambda a: mx.exp(a) * 2 + 1, x),
    "halves of one array": counted(fused, x),
    "lookup": counted(lambda ids: table[ids], stand_in((3,), mx.int32)),
    "long rows": counted(lambda a: mx.fast.layer_norm(a, None, None, 1e-6), wide),
    "short rows": counted(lambda a: mx.fast.layer_norm(a, None, None, 1e-6), x),
    "moved rows": counted(lambda a: mx.fast.rms_norm(a.T, stand_in((64,), f32), 1e-6), x),
    "attention": counted(lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=1.0), heads),
    "activation": counted(lambda a: nn.silu(a), x),
    "laid otherwise": counted(lambda a: pair(a.T[:, :64], a.T[:, :64]), stand_in((64, 64), mx.bfloat16)),
    "a kernel of our own": counted(own, x),
    "a kernel of our own, on columns": counted(lambda a: own(a.T), x),
    "two together": counted(lambda a: mx.concatenate([a, a.astype(mx.bfloat16)]), x),
}
print(json.dumps({name: count.told() for name, count in told.items()}))
"""


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def probes():
    return run("-c", PROBES)


X = 64 * 128 * 4

KNOWN = {
    "a part replaced": (2, 2 * X + 2 * X // 4, 2 * X + 2 * X // 4),
    "padded": (2, 4 * X, 4 * X),
    "views": (0, 0, 0),
    "copy": (1, 2 * X, 2 * X),
    "one of three": (1, 2 * X, 0),
    "three": (3, 6 * X, 0),
    "halves of one array": (1, X + X // 2, 0),
    "lookup": (1, 2 * 3 * 8 * 4 + 3 * 4, 0),
    "long rows": (1, 4 * 2 * 8 * 10_000 * 4, 0),
    "short rows": (1, 2 * X, 0),
    "moved rows": (2, 4 * X, 2 * X),
    "attention": (1, 0, 0),
    "activation": (1, 2 * X, 0),
    "laid otherwise": (2, 2 * 64 * 64 * 2, 0),
    "a kernel of our own": (1, X + 16, 0),
    "a kernel of our own, on columns": (2, 3 * X + 16, 2 * X),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_call_costs_what_it_must(probes, name):
    found = probes[name]
    assert (found["kernels"], found["bytes"], found["copies"]) == KNOWN[name]


def test_types_are_told_apart(probes):
    # float32 is narrowed and then widened again, and two of it are laid together: 2 of 3, and 2 of 4 in the copies
    assert 0.5 < probes["two together"]["float32"] < 1
    assert probes["laid otherwise"]["float32"] == 0


@pytest.mark.parametrize(
    ("shape", "strides", "wanted", "expected"),
    [
        ((4, 6), (6, 1), (24,), (1,)),
        ((4, 6), (6, 1), (2, 2, 3, 2), (12, 6, 2, 1)),
        ((4, 6), (1, 4), (24,), None),
        ((4, 6), (12, 1), (2, 2, 6), (24, 12, 1)),
        ((4, 6), (12, 1), (24,), None),
        ((1, 4, 6), (0, 6, 1), (4, 1, 6), (6, 1, 1)),
        ((3, 4), (0, 1), (3, 2, 2), (0, 2, 1)),
    ],
)
def test_a_reshape_is_a_view_where_strides_can_express_it(shape, strides, wanted, expected):
    assert viewed(Array(shape, mx.float32, strides), wanted) == expected


def test_an_array_knows_what_of_it_is_there():
    assert rows((2, 3, 4)) == (12, 4, 1)
    assert Array((5, 4), mx.bfloat16, (0, 1)).bytes == 8
    assert Array((2, 3), mx.float32, (1, 2)).dense
    assert not Array((2, 3), mx.float32, (4, 1)).dense
    assert Array((2, 1, 3), mx.float32, (3, 77, 1)).in_rows


@pytest.mark.parametrize("how", [[], ["--plain"]])
def test_the_engine_hands_over_less_than_any_peer_in_every_cell(how):
    """One cell is an exception without our own kernels: mlx-examples rounds FLUX's cosines and sines to bfloat16, and
    0.04 % of its bytes are float32. MLX's operations need ours for every token, in float32 as in diffusers: 0.7 %."""
    counts = run("-m", "bench.mlx_work", "--json", *how, *PEERS)
    exception = {("flux.1-dev", "mlx-examples", "float32"): 0.0075} if how else {}
    for case, peers in PEERS.items():
        for peer, theirs in peers.items():
            for figure, value in theirs.items():
                cell = case, peer, figure
                assert counts[case][figure] < exception.get(cell, value), cell
    assert counts["flux.1-dev"]["bytes"] < (41e9 if how else 32e9)
    assert counts["flux.1-dev"]["kernels"] == (1210 if how else 925)
    assert counts["flux.1-dev"]["graphs"] == 57
    assert counts["vae-decode"]["bytes"] < (81e9 if how else 62e9)


def test_every_peer_is_shown_with_version_and_dates():
    assert {peer for peers in PEERS.values() for peer in peers} == set(VERSIONS)
    command = [sys.executable, "-m", "bench.mlx_work", "clip-l"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"{COUNTED}.")
    for peer, (version, released) in VERSIONS.items():
        assert f"{peer} {version} of {released}" in done.stdout.splitlines()[0]
        assert date.fromisoformat(released) < date.fromisoformat(COUNTED)


def test_of_what_the_attention_of_two_streams_reads_only_values_are_copied_to_be_together():
    """And the keys of SD 3's last block, which has no queries of the text and does without our kernel."""
    counts = run("-m", "bench.mlx_work", "--json", "flux.1-dev", "sd3.5-medium")
    values = {"flux.1-dev": 19 * (4096 + 512) * 3072, "sd3.5-medium": (24 + 1) * 2 * (4096 + 333) * 1536}
    for case, numbers in values.items():
        assert 1 <= counts[case]["copies"] / (numbers * 2 * 2) < 1.06, case
    assert counts["sd3.5-medium"]["kernels"] == 823


def test_in_strips_a_bias_is_added_together_with_the_residual():
    """Otherwise 3 GB are read and written again."""
    counts = run("-m", "bench.mlx_work", "--json", "vae-decode-strips")["vae-decode-strips"]
    assert counts["kernels"] == 5897
    assert counts["bytes"] < 83e9


def test_text_encoders_copy_nothing():
    """Their heads are normed before they are transposed, for instance: a norm copies transposed rows."""
    counts = run("-m", "bench.mlx_work", "--json", "clip-l", "t5-xxl", "qwen3-4b")
    assert {case: count["copies"] for case, count in counts.items()} == {"clip-l": 0, "t5-xxl": 0, "qwen3-4b": 0}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_has_our_figures_as_the_command_prints_them():
    """The peers' cells are not compared: they are what ``peers.py`` says."""
    command = [sys.executable, "-m", "bench.mlx_work"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    printed = done.stdout.split("\n\n")[0]
    page = (TESTS / "bench" / "README.md").read_text(encoding="utf-8").partition("\nNow, with our own kernels")[2]
    table = page.split("\n\n")[1]
    ours = [[line.split("|")[1:4] for line in lines.strip().splitlines()] for lines in (table, printed)]
    assert ours[0] == ours[1]
    assert len(ours[0]) > 50


def test_a_case_that_is_not_there_is_refused_with_those_that_are():
    command = [sys.executable, "-m", "bench.mlx_work", "flux.3"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "flux.3" in done.stderr
    assert "flux.1-dev-4bit" in done.stderr
