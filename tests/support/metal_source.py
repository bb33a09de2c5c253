"""Metal kernels on the processor: ``mx.fast.metal_kernel`` with the source compiled as C++ and run thread by thread.

It stands for Metal where there is none, to test a kernel's arithmetic, its indices and how it is called. That Metal
compiles the source it cannot show. Only what our kernels use is known here: inputs and their shapes, the positions of
a thread, memory of a threadgroup and its barrier.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

_POSITIONS = (
    *("thread_position_in_grid", "threads_per_grid", "thread_position_in_threadgroup", "threadgroup_position_in_grid"),
)
_TYPES = {mx.float32: ("float", np.float32), mx.float16: ("_Float16", np.float16), mx.int32: ("int", np.int32)}

# Threads of a threadgroup run at the same time if they wait for each other, else one after another.
_PROGRAM = """
#include <barrier>
#include <cmath>
#include <cstddef>
#include <thread>
#include <vector>
typedef unsigned int uint;
struct uint3 {{ uint x, y, z; }};
namespace mem_flags {{ const int mem_threadgroup = 0; }}
static std::barrier<>* gate;
static void threadgroup_barrier(int) {{ gate->arrive_and_wait(); }}
#define threadgroup static
{template}
static void kernel({parameters}) {{
{source}
}}
extern "C" void run(const void** in, const int** shapes, void** out, const uint* g, const uint* t) {{
    const uint3 threads_per_grid{{g[0], g[1], g[2]}};
    for (uint gz = 0; gz * t[2] < g[2]; gz++) for (uint gy = 0; gy * t[1] < g[1]; gy++)
    for (uint gx = 0; gx * t[0] < g[0]; gx++) {{
        std::vector<std::thread> group;
        std::barrier<> all({threads});
        gate = &all;
        for (uint z = 0; z < t[2]; z++) for (uint y = 0; y < t[1]; y++) for (uint x = 0; x < t[0]; x++) {{
            const uint3 thread_position_in_threadgroup{{x, y, z}};
            const uint3 threadgroup_position_in_grid{{gx, gy, gz}};
            const uint3 thread_position_in_grid{{gx * t[0] + x, gy * t[1] + y, gz * t[2] + z}};
            const uint3 p = thread_position_in_grid;
            if (p.x >= g[0] || p.y >= g[1] || p.z >= g[2]) continue;
            auto one = [=] {{ kernel({arguments}); }};
            if ({waits}) group.emplace_back(one); else one();
        }}
        for (auto& thread : group) thread.join();
    }}
}}
"""


def metal_kernel(name: str, input_names: list[str], output_names: list[str], source: str) -> Any:
    """Like ``mx.fast.metal_kernel``: return a function of ``inputs``, ``grid``, ``threadgroup`` and so on."""
    del name

    def call(
        *,
        inputs: list[mx.array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: list[tuple[int, ...]],
        output_dtypes: list[mx.Dtype],
        template: tuple[tuple[str, mx.Dtype], ...] | list[tuple[str, mx.Dtype]] = (),
    ) -> list[mx.array]:
        waits = "threadgroup_barrier" in source
        assert not waits or all(n % m == 0 for n, m in zip(grid, threadgroup, strict=True))
        types = tuple(_TYPES[value.dtype][0] for value in inputs), tuple(_TYPES[dtype][0] for dtype in output_dtypes)
        named = tuple((key, _TYPES[dtype][0]) for key, dtype in template)
        run = _built(source, tuple(input_names), tuple(output_names), *types, named, waits, int(np.prod(threadgroup)))
        given = [np.ascontiguousarray(np.array(value)) for value in inputs]
        made = [np.full(s, np.nan, _TYPES[d][1]) for s, d in zip(output_shapes, output_dtypes, strict=True)]
        shapes = [np.array(value.shape, dtype=np.int32) for value in given]
        sizes = [np.array(size, dtype=np.uint32) for size in (grid, threadgroup)]
        run(
            _pointers(given),
            _pointers(shapes),
            _pointers(made),
            *(size.ctypes.data_as(ctypes.c_void_p) for size in sizes),
        )
        return [mx.array(value) for value in made]

    return call


def _pointers(arrays: list[Any]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@functools.cache
def _built(
    source: str,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    input_types: tuple[str, ...],
    output_types: tuple[str, ...],
    template: tuple[tuple[str, str], ...],
    waits: bool,
    threads: int,
) -> Any:
    parameters: list[str] = []
    arguments: list[str] = []
    for i, (name, kind) in enumerate(zip(input_names, input_types, strict=True)):
        parameters += [f"const {kind}* {name}", f"const int* {name}_shape"]
        arguments += [f"(const {kind}*)in[{i}]", f"shapes[{i}]"]
    for i, (name, kind) in enumerate(zip(output_names, output_types, strict=True)):
        parameters.append(f"{kind}* {name}")
        arguments.append(f"({kind}*)out[{i}]")
    for name in _POSITIONS:
        parameters.append(f"uint3 {name}")
        arguments.append(name)
    text = _PROGRAM.format(
        template="\n".join(f"using {name} = {kind};" for name, kind in template),
        parameters=", ".join(parameters),
        arguments=", ".join(arguments),
        source=source,
        waits=str(waits).lower(),
        threads=threads,
    )
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        code.write_text(text, encoding="utf-8")
        options = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Wno-unused", "-Wno-sign-compare", "-shared", "-fPIC"]
        done = subprocess.run(
            ["g++", *options, "-pthread", str(code), "-o", str(library)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return ctypes.CDLL(str(library)).run
