"""The engine's process computes with the system's OpenBLAS if there is a suitable one, and without it otherwise.

The libraries are compiled here, so nothing needs to be installed: each counts its calls and leaves the rest undone.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys

import pytest

from locara_sidecar.engine.mlx_engine import starting
from support.measuring import host

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(sys.platform != "linux", reason="only MLX's wheels for Linux bring a slow BLAS"),
]

SOURCE = """
#include <stdlib.h>
static int count;
int calls(void) { return count; }
const char* openblas_get_config(void) { return "OpenBLAS 9.8.7 CONFIGURATION Haswell"; }
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                 const float* b, int ldb, float beta, float* c, int ldc) {
    count++;
    for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) c[i * ldc + j] = 7.0f;
}
void cblas_dgemm(void) { abort(); }
void cblas_cgemm(void) { abort(); }
"""
PROGRAM = """
import ctypes, json, os, sys
from locara_sidecar.engine.mlx_engine import starting

name, early = sys.argv[1:]
if early:
    import mlx.core
told = starting.prefer_openblas(name)
import mlx.core as mx
found = (mx.ones((40, 50)) @ mx.ones((50, 60))).tolist()
calls = ctypes.CDLL(name).calls() if name.endswith("own.so") else None
print(json.dumps([told, sorted({n for row in found for n in row}), calls, os.environ.get("OPENBLAS_NUM_THREADS")]))
"""
RIGHT = [50.0]
compiled_here = pytest.mark.skipif(shutil.which("gcc") is None, reason="the libraries are compiled with gcc")


@pytest.fixture
def library(tmp_path):
    def make(before="CONFIGURATION", after=""):
        source, made = tmp_path / "own.c", tmp_path / "own.so"
        source.write_text(SOURCE.replace(before, after))
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", made, source], check=True, timeout=60)
        return str(made)

    return make


def started(name, *, early=False, **variables):
    """Return what a separate process reported and computed, its calls of the library, and its number of threads."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, "-c", PROGRAM, name, "early" if early else ""]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=60).stdout)


@compiled_here
def test_mlx_computes_with_a_library_that_fits(library):
    assert started(library()) == ["OpenBLAS 9.8.7", [7.0], 1, "1"]


@compiled_here
def test_the_users_number_of_threads_stands(library):
    assert started(library(), OPENBLAS_NUM_THREADS="3")[-1] == "3"


@compiled_here
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("CONFIGURATION", "USE64BITINT"),
        ("openblas_get_config", "what_it_is"),
        ("cblas_cgemm", "cblas_cgemm_"),
        ('"OpenBLAS 9.8.7 CONFIGURATION Haswell"', "0"),
    ],
    ids=["wide sizes", "no configuration", "a function is missing", "says nothing"],
)
def test_a_library_that_does_not_fit_is_left_alone(library, before, after):
    assert started(library(before, after))[:3] == [None, RIGHT, 0]


@compiled_here
def test_it_is_too_late_when_mlx_is_there(library):
    assert started(library(), early=True)[:3] == [None, RIGHT, 0]


def test_without_a_library_mlx_computes_by_itself(tmp_path):
    broken = tmp_path / "libbroken.so.0"
    broken.write_bytes(b"\x7fELF and no more")
    for name in ("libopenblas-that-nobody-has.so.0", str(broken)):
        assert started(name)[:3] == [None, RIGHT, None]


@pytest.mark.parametrize(
    ("found", "device", "note"),
    [
        ("OpenBLAS 1.2.3", "cpu", "with the system's OpenBLAS 1.2.3."),
        (None, "cpu", "faster with the system's OpenBLAS (libopenblas.so.0;"),
        ("OpenBLAS 1.2.3", "cuda", None),
    ],
)
def test_the_engine_says_with_what_it_computes(monkeypatch, found, device, note):
    from locara_sidecar.engine.mlx_engine import runtime

    monkeypatch.setattr(starting, "prefer_openblas", lambda: found)
    monkeypatch.setattr(runtime.device, "choose_device", lambda: device)
    said = starting.create().note
    assert said is None if note is None else note in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_confined_engine_draws_with_the_systems_library(tmp_path):
    """The sandbox lets it be loaded."""
    try:
        ctypes.CDLL(starting._NAME)
    except OSError:
        pytest.skip(f"this system has no {starting._NAME}")
    with host(tmp_path, "--engine", "mlx") as sidecar:
        drawn = sidecar.call("image.generate", {"prompt": "a large red circle", "options": {"steps": 4}})
        info = sidecar.call("system.info")
    assert len(drawn["images"]) == 1
    if not info["sandbox"]["enforced"]:
        pytest.skip("this system confines no engine")
    said = next(row["reason"] for row in info["engines"] if row["name"] == "mlx")
    assert "It multiplies matrices with the system's OpenBLAS " in said
