"""A graph of MLX 0.32: its nodes, the layout of its arrays, and which nodes ``mlx/compile.cpp`` fuses into one kernel.

What the kernels cost is in ``metal_rules.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx

_UNARY = """Abs ArcCos ArcSin ArcTan AsType Ceil Cos Erf Exp Expm1 Floor Log Log1p LogicalNot Negative Remainder Round
Rsqrt Sigmoid Sign Sin Sqrt Square Tan Tanh"""
_BINARY = """Add ArcTan2 BitwiseBinary Divide Equal Greater GreaterEqual Less LessEqual LogAddExp LogicalAnd LogicalOr
Maximum Minimum Multiply NotEqual Power Subtract"""
ELEMENTWISE = frozenset([*_UNARY.split(), *_BINARY.split(), "Select"])
_DEEPEST, _MOST_INPUTS = 11, 24
"""``max_compile_depth`` and ``max_compile_arrays``."""


@dataclass
class Node:
    """One primitive: its name in MLX, its arguments, and the names of its input and output arrays."""

    kind: str
    arguments: list[Any]
    inputs: list[str]
    outputs: list[str]
    inner: Graph | None = None
    """The nodes of a compiled function."""


@dataclass
class Graph:
    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    arrays: dict[str, Array]


@dataclass
class Array:
    """Shape, type and layout: strides in elements, 0 along repeated axes. ``memory``: the name of the array whose
    memory it views. ``constant``: the same in every call."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    strides: tuple[int, ...] = ()
    memory: str = ""
    constant: bool = False

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.shape):
            self.strides = rows(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the distinct elements, each counted once."""
        return math.prod(n for n, stride in zip(self.shape, self.strides, strict=True) if stride) * self.dtype.size

    @property
    def in_rows(self) -> bool:
        return all(n == 1 or s == r for n, s, r in zip(self.shape, self.strides, rows(self.shape), strict=True))

    @property
    def dense(self) -> bool:
        """Whether it has no gaps and repetitions, in any order of axes."""
        expected = 1
        for stride, n in sorted((s, n) for n, s in zip(self.shape, self.strides, strict=True) if n > 1):
            if stride != expected:
                return False
            expected *= n
        return True


def rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array whose last axis is contiguous."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def viewed(array: Array, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return strides that give the same memory another shape; None if it must be copied."""
    runs: list[list[int]] = []  # [numbers, stride] of what lies evenly, from the outside
    for n, stride in zip(array.shape, array.strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * stride:
            runs[-1] = [runs[-1][0] * n, stride]
        else:
            runs.append([n, stride])
    strides: list[int] = []
    for n in shape:
        if n == 1:
            strides.append(1)
            continue
        if not runs or runs[0][0] % n:
            return None
        runs[0][0] //= n
        strides.append(runs[0][0] * runs[0][1])
        if runs[0][0] == 1:
            runs.pop(0)
    return tuple(strides)


# --- fusion ---------------------------------------------------------------------------------


def fused(graph: Graph) -> list[Node]:
    """The nodes of a compiled function, element-wise ones gathered into kernels as ``compile_fuse`` gathers them."""
    nodes = _without_repetitions(graph)
    makers = {name: node for node in nodes for name in node.outputs}
    readers: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.outputs[0])
    finished, kept = set(graph.outputs), list[Node]()
    taken: set[str] = set()

    def can_join(name: str, top: str, depth: int) -> bool:
        node = makers.get(name)
        if node is None or depth >= _DEEPEST or node.kind not in ELEMENTWISE | {"Broadcast"}:
            return False
        return name not in finished or graph.arrays[name].shape == graph.arrays[top].shape

    def gather(name: str, top: str, depth: int, joined: set[str], border: set[str]) -> None:
        if name in joined:
            return
        if not can_join(name, top, depth):
            border.add(name)
            return
        if depth and not readers[name] <= joined:  # somebody else needs it; a broadcast is then made twice
            repeated = makers[name].kind == "Broadcast" and len(border) < _MOST_INPUTS
            border.add(makers[name].inputs[0] if repeated else name)
            return
        border.discard(name)
        if name in finished:
            border.add(name)
        if len(border) >= _MOST_INPUTS:
            return
        joined.add(name)
        for given in makers[name].inputs:
            gather(given, top, depth + 1, joined, border)

    for node in reversed(nodes):
        top = node.outputs[0]
        if top in taken:
            continue
        joined: set[str] = set()
        if node.kind in ELEMENTWISE:
            gather(top, top, 0, joined, set())
        if len(joined) > 1:
            taken |= joined
            given = {name for inner in joined for name in makers[inner].inputs} - joined
            sources = [makers[n].inputs[0] if n in makers and makers[n].kind == "Broadcast" else n for n in given]
            others = [name for name in joined if name in finished and name != top]
            node = Node("Fused", [], sorted(set(sources)), [top, *others])
        kept.append(node)
    return kept[::-1]


def _without_repetitions(graph: Graph) -> list[Node]:
    """Drop nodes that apply the same primitive to the same arrays again."""
    first: dict[Any, list[str]] = {}
    alias: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = [alias.get(name, name) for name in node.inputs]
        node = Node(node.kind, node.arguments, inputs, node.outputs, node.inner)
        known = first.setdefault((node.kind, str(node.arguments), tuple(inputs)), node.outputs)
        if known is node.outputs or node.kind in ("Attention", "Depends") or set(node.outputs) & set(graph.outputs):
            kept.append(node)
        else:
            alias |= dict(zip(node.outputs, known, strict=True))
    return kept
