"""Metal kernels on the processor: ``mx.fast.metal_kernel`` with the source compiled as C++ and run thread by thread.

It replaces Metal where there is none, to test a kernel's arithmetic, its indices and how it is called. It cannot show
that Metal compiles the source. Only what our kernels use is supported: inputs and their shapes, a thread's positions, a
threadgroup's memory and barrier, the sum over a simdgroup, and a template of types and whole numbers.
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
_TYPES: dict[mx.Dtype, tuple[str, Any, float]] = {
    mx.float32: ("float", np.float32, np.nan),
    mx.float16: ("_Float16", np.float16, np.nan),
    mx.bfloat16: ("bfloat16", np.uint16, 0x7FC0),
    mx.int32: ("int", np.int32, 0),
    mx.uint32: ("uint", np.uint32, 0),
}
"""Of MLX's types: C++'s, NumPy's of the same size, and what is in an output before it is written: no number."""

# The threads of a threadgroup take turns: each runs until it waits for the others, or ends.
_PROGRAM = """
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>
typedef unsigned int uint;
struct uint3 {{ uint x, y, z; }};
namespace mem_flags {{ const int mem_threadgroup = 0; }}
namespace metal {{ namespace precise {{ inline float rsqrt(float x) {{ return float(1 / std::sqrt(double(x))); }} }} }}
struct bfloat16 {{  // rounds to the nearest, and to even
    uint16_t bits;
    bfloat16() = default;
    bfloat16(float value) {{
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        bits = value == value ? (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16 : 0x7FC0;
    }}
    operator float() const {{
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }}
}};
struct Thread {{ ucontext_t at; std::vector<char> stack; uint3 place; bool ended; uint number; }};
static ucontext_t turns;
static Thread* running;
static void threadgroup_barrier(int) {{ swapcontext(&running->at, &turns); }}
static float summands[1024];
static float simd_sum(float value) {{
    summands[running->number] = value;
    threadgroup_barrier(0);
    float sum = 0;
    for (uint i = 0; i < 32; i++) sum += summands[running->number / 32 * 32 + i];
    threadgroup_barrier(0);
    return sum;
}}
#define threadgroup static
#define device
{template}
static void kernel({parameters}) {{
{source}
}}
static const void** in;
static const int** shapes;
static void** out;
static uint3 threads_per_grid, threads, threadgroup_position_in_grid;
static void start() {{
    const uint3 thread_position_in_threadgroup = running->place, p = running->place;
    const uint3 g = threadgroup_position_in_grid;
    const uint3 thread_position_in_grid{{g.x * threads.x + p.x, g.y * threads.y + p.y, g.z * threads.z + p.z}};
    const uint3 at = thread_position_in_grid;
    if (at.x < threads_per_grid.x && at.y < threads_per_grid.y && at.z < threads_per_grid.z) kernel({arguments});
    running->ended = true;
}}
extern "C" void run(const void** in_, const int** shapes_, void** out_, const uint* g, const uint* t) {{
    in = in_; shapes = shapes_; out = out_;
    threads_per_grid = {{g[0], g[1], g[2]}};
    threads = {{t[0], t[1], t[2]}};
    std::vector<Thread> group(t[0] * t[1] * t[2]);
    for (auto& thread : group) thread.stack.resize(16384);
    uint3& at = threadgroup_position_in_grid;
    for (at.z = 0; at.z * t[2] < g[2]; at.z++) for (at.y = 0; at.y * t[1] < g[1]; at.y++)
    for (at.x = 0; at.x * t[0] < g[0]; at.x++) {{
        for (uint i = 0; i < group.size(); i++) {{
            Thread& thread = group[i];
            thread.place = {{i % t[0], i / t[0] % t[1], i / t[0] / t[1]}};
            thread.ended = false;
            thread.number = i;
            getcontext(&thread.at);
            thread.at.uc_stack.ss_sp = thread.stack.data();
            thread.at.uc_stack.ss_size = thread.stack.size();
            thread.at.uc_link = &turns;
            makecontext(&thread.at, start, 0);
        }}
        for (bool going = true; going;) {{
            going = false;
            for (auto& thread : group) {{
                if (thread.ended) continue;
                running = &thread;
                swapcontext(&turns, &thread.at);
                going = going || !thread.ended;
            }}
        }}
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
        template: list[tuple[str, mx.Dtype | int]] | tuple[()] = (),
    ) -> list[mx.array]:
        types = tuple(_TYPES[value.dtype][0] for value in inputs), tuple(_TYPES[dtype][0] for dtype in output_dtypes)
        named = tuple(
            f"constexpr int {key} = {value};" if isinstance(value, int) else f"using {key} = {_TYPES[value][0]};"
            for key, value in template
        )
        run = _built(source, tuple(input_names), tuple(output_names), *types, named)
        given = [np.ascontiguousarray(np.array(_as_bits(value))) for value in inputs]
        made = [np.full(s, _TYPES[d][2], _TYPES[d][1]) for s, d in zip(output_shapes, output_dtypes, strict=True)]
        shapes = [np.array(value.shape, dtype=np.int32) for value in given]
        sizes = [np.array(size, dtype=np.uint32) for size in (grid, threadgroup)]
        run(
            _pointers(given),
            _pointers(shapes),
            _pointers(made),
            *(size.ctypes.data_as(ctypes.c_void_p) for size in sizes),
        )
        results = zip(map(mx.array, made), output_dtypes, strict=True)
        return [value.view(dtype) if dtype == mx.bfloat16 else value for value, dtype in results]

    return call


def changed(before: str, after: str) -> Any:
    """Return :func:`metal_kernel` for a source in which something is changed."""

    def made(name: str, input_names: list[str], output_names: list[str], source: str) -> Any:
        return metal_kernel(name, input_names, output_names, source.replace(before, after))

    return made


def refuses(*_: Any, **__: Any) -> Any:
    """Fail as Metal does for a source that does not compile: in place of ``metal_kernel`` or of its function.

    :raises RuntimeError: always.
    """
    raise RuntimeError("[metal::Device] Unable to build metal library from source\nprogram_source:12:5: error: …")


def _as_bits(value: mx.array) -> mx.array:
    """Return what NumPy can read: it has no bfloat16."""
    return value.view(mx.uint16) if value.dtype == mx.bfloat16 else value


def _pointers(arrays: list[Any]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@functools.cache
def _built(
    source: str,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    input_types: tuple[str, ...],
    output_types: tuple[str, ...],
    template: tuple[str, ...],
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
        template="\n".join(template),
        parameters=", ".join(parameters),
        arguments=", ".join(arguments),
        source=source,
    )
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        code.write_text(text, encoding="utf-8")
        options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-unused", "-Wno-sign-compare", "-shared", "-fPIC"]
        done = subprocess.run(["g++", *options, str(code), "-o", str(library)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return ctypes.CDLL(str(library)).run
