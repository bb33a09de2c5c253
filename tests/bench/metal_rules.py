"""How MLX 0.32 executes a graph on Metal: which operations become one kernel, where arrays are, what is copied.

Read from MLX's own source: ``mlx/compile.cpp`` for fusion, ``mlx/backend/metal`` and ``mlx/backend/gpu`` for the rest.
Nothing here was observed on Metal. A view costs nothing. A reshape costs a copy if no strides can express it. Norms,
products and convolutions copy inputs whose layout they do not accept.

This module and ``metal_graph.py`` have the rules, ``graph_tracing.py`` the graphs, ``mlx_work.py`` the networks and the
table.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.metal_graph import ELEMENTWISE, Array, Node, fused, rows, viewed

if TYPE_CHECKING:
    import mlx.core as mx

    from bench.metal_graph import Graph

VIEWS = {"Split", "StopGradient", "Copy", "Depends"}
RESHAPES = {"Reshape", "Flatten", "Unflatten", "ExpandDims", "Squeeze"}
PRODUCTS = {"Matmul", "AddMM", "QuantizedMatmul", "Convolution", "Attention"}
_HEADS = {64, 72, 80, 96, 128, 192, 256}
"""Head sizes with a kernel for the whole attention over more than eight queries."""
_LONGEST_ROW = {"LayerNorm": 6656, "RMSNorm": 4096}
"""How many numbers of a row a norm's kernel holds; a longer row is read again from memory."""


@dataclass
class Count:
    """Bytes are of what is read and written outside of products, unless it says otherwise."""

    kernels: Counter[str] = field(default_factory=Counter)
    """By primitive."""
    types: Counter[str] = field(default_factory=Counter)
    """Bytes by number type."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Bytes by primitive."""
    copies: Counter[str] = field(default_factory=Counter)
    """The part of ``bytes`` that only changes the layout."""
    flops: Counter[str] = field(default_factory=Counter)
    """FLOPs of products, by number type; Winograd's as they are actually computed."""
    graphs: int = 0
    """How often work is submitted to the device."""

    def told(self) -> dict[str, Any]:
        """The figures of the table. ``float32``: the share of the bytes."""
        total = self.types.total()
        return {
            "kernels": self.kernels.total(),
            "bytes": total,
            "copies": self.copies.total(),
            "float32": self.types["float32"] / max(total, 1),
            "graphs": self.graphs,
            "flops": self.flops.total(),
        }


class Ledger:
    """Walks over a graph, tracks the layout of each array, and records the cost of each kernel.

    :param arrays: all arrays of the graph by name; outputs of nodes get their strides here.
    """

    def __init__(self, arrays: dict[str, Array], count: Count) -> None:
        self._arrays, self._count = arrays, count
        for name, array in arrays.items():
            array.memory = array.memory or name

    def run(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.inner is not None:
                self._compiled(node, node.inner)
                continue
            rule = getattr(self, f"_{node.kind.lower()}", None)
            if node.kind in RESHAPES:
                self._reshape(node)
            elif node.kind in VIEWS:
                for name in node.outputs:
                    self._view(name, node.inputs[0], self._arrays[node.inputs[0]].strides)
            elif rule is not None:
                rule(node)
            else:
                self._other(node)

    def _compiled(self, node: Node, inner: Graph) -> None:
        """A compiled function, on arrays in their layout at the call."""
        for ours, theirs in zip(node.inputs, inner.inputs, strict=True):
            given = self._arrays[ours]
            memory = f"outside {given.memory}"
            inner.arrays[theirs] = Array(given.shape, given.dtype, given.strides, memory)
            inner.arrays[memory] = self._arrays.get(given.memory, given)
        inside = Ledger(inner.arrays, self._count)
        inside.run(fused(inner))
        for ours, theirs in zip(node.outputs, inner.outputs, strict=True):
            self._arrays[ours].strides = inner.arrays[theirs].strides

    def _pay(self, why: str, read: list[str], written: list[str], *, kernels: int = 1, copied: bool = False) -> None:
        """Record a kernel. Views of the same memory are read once: the second read hits the cache. A scalar does not
        count: it is a constant of the kernel."""
        self._count.kernels[why] += kernels
        read_of: dict[str, int] = {}
        for name in read:
            array = self._arrays[name]
            if array.bytes <= array.dtype.size:
                continue
            wanted = read_of.get(array.memory, 0) + array.bytes
            read_of[array.memory] = min(wanted, max(self._arrays[array.memory].bytes, array.bytes))
            self._count.types[_type(array.dtype)] += read_of[array.memory] - wanted + array.bytes
        moved = sum(read_of.values())
        for name in written:
            self._count.types[_type(self._arrays[name].dtype)] += self._arrays[name].bytes
            moved += self._arrays[name].bytes
        self._count.bytes[why] += moved
        if copied:
            self._count.copies[why] += moved

    def _extra(self, why: str, size: float, dtype: mx.Dtype, *, copied: bool = False) -> None:
        self._count.bytes[why] += int(size)
        self._count.types[_type(dtype)] += int(size)
        if copied:
            self._count.copies[why] += int(size)

    def _written(self, why: str, name: str) -> None:
        """``name`` is written to memory that is not counted as an output, or to a part of one that is written twice."""
        array = self._arrays[name]
        self._extra(why, math.prod(array.shape) * array.dtype.size, array.dtype, copied=True)

    def _copy(self, node: Node, name: str) -> None:
        """``name`` is made contiguous before the node's kernel reads it."""
        self._pay(f"Copy for {node.kind}", [name], [], copied=True)
        self._written(f"Copy for {node.kind}", name)

    def _view(self, name: str, of: str, strides: tuple[int, ...]) -> None:
        self._arrays[name].strides = strides
        self._arrays[name].memory = self._arrays[of].memory

    # --- views

    def _reshape(self, node: Node) -> None:
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        strides = viewed(given, made.shape)
        if strides is None:
            self._pay("Copy for Reshape", node.inputs, node.outputs, copied=True)
        else:
            self._view(node.outputs[0], node.inputs[0], strides)

    def _broadcast(self, node: Node) -> None:
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        before = len(made.shape) - len(given.shape)
        shape, strides = (1,) * before + given.shape, (0,) * before + given.strides
        wide = zip(shape, made.shape, strides, strict=True)
        self._view(node.outputs[0], node.inputs[0], tuple(0 if n == 1 and m != 1 else s for n, m, s in wide))

    def _transpose(self, node: Node) -> None:
        strides = self._arrays[node.inputs[0]].strides
        axes = node.arguments[0] if node.arguments and node.arguments[0] else range(len(strides))[::-1]
        self._view(node.outputs[0], node.inputs[0], tuple(strides[axis] for axis in axes))

    def _slice(self, node: Node) -> None:
        strides = self._arrays[node.inputs[0]].strides
        steps = node.arguments[2]
        self._view(node.outputs[0], node.inputs[0], tuple(s * step for s, step in zip(strides, steps, strict=True)))

    # --- products

    def _matmul(self, node: Node) -> None:
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        if 1 not in given.strides[-2:]:
            self._copy(node, node.inputs[0])
        self._product(node, 2 * math.prod(made.shape) * given.shape[-1])

    _addmm = _matmul

    def _quantizedmatmul(self, node: Node) -> None:
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        if given.strides[-2:] != (given.shape[-1], 1):  # what lies before the last two axes does not matter
            self._copy(node, node.inputs[0])
        self._product(node, 2 * math.prod(made.shape) * given.shape[-1])

    def _product(self, node: Node, flops: float) -> None:
        self._count.flops[_type(self._arrays[node.inputs[0]].dtype)] += int(flops)
        self._count.kernels[node.kind] += 1

    def _convolution(self, node: Node) -> None:
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        weight = self._arrays[node.inputs[1]].shape
        if not given.in_rows:
            self._copy(node, node.inputs[0])
        flops = 2 * math.prod(made.shape) * math.prod(weight[1:])
        before, after = given.shape[-1], weight[0]
        large = math.prod(given.shape[:-1]) >= 4096 and before + after >= 256
        even = before % 32 == after % 32 == 0
        if weight[1:3] == (3, 3) and tuple(node.arguments[0]) == (1, 1) and large and even:
            # Winograd's: 8 x 8 numbers for 6 x 6 pixels, written and read again on both sides of the products
            size = made.dtype.size
            pixels = math.prod(given.shape[:-1]) * before, math.prod(made.shape)
            moved = 2 * pixels[0] + 2 * 64 / 36 * sum(pixels) + 64 / 9 * math.prod(weight)
            self._extra("Winograd", moved * size, made.dtype)
            flops *= 64 / 324
        self._product(node, flops)

    def _attention(self, node: Node) -> None:
        for name in node.inputs[:3]:
            if self._arrays[name].strides[-1] != 1:
                self._copy(node, name)
        given, made = self._arrays[node.inputs[0]], self._arrays[node.outputs[0]]
        batch, heads, length, size = made.shape[0], made.shape[1], made.shape[2], made.shape[3]
        keys = self._arrays[node.inputs[1]].shape[-2]
        self._product(node, 4 * math.prod(given.shape) * keys)
        made.strides = (length * heads * size, size, heads * size, 1)  # its kernel writes tokens first
        if size not in _HEADS:  # a product, a softmax and a product instead, on scaled queries
            self._pay("Scores", node.inputs[:1], node.inputs[:1], kernels=3)
            self._extra("Scores", 4 * batch * heads * length * keys * made.dtype.size, made.dtype)
            made.strides = rows(made.shape)

    # --- the rest

    def _norm(self, node: Node) -> None:
        name = node.inputs[0]
        given, made = self._arrays[name], self._arrays[node.outputs[0]]
        length = given.shape[-1]
        together = given.strides[-1] == 1 and (
            len(given.shape) < 2 or given.shape[-2] == 1 or given.strides[-2] in (0, length)
        )
        if given.dense and together:
            made.strides = given.strides
        else:
            self._copy(node, name)
        self._pay(node.kind, [name], node.outputs)
        if length > _LONGEST_ROW[node.kind]:
            self._extra(node.kind, made.bytes * (2 if node.kind == "LayerNorm" else 1), given.dtype)

    _layernorm = _rmsnorm = _norm

    def _rope(self, node: Node) -> None:
        given = self._arrays[node.inputs[0]]
        heads_first = len(given.shape) == 4 and given.strides[1] == given.shape[3]
        if not (given.in_rows or len(given.shape) == 3 or heads_first):
            self._copy(node, node.inputs[0])
        self._pay(node.kind, node.inputs[:1], node.outputs)

    def _concatenate(self, node: Node) -> None:
        self._pay("Concatenate", node.inputs, node.outputs, kernels=len(node.inputs), copied=True)

    def _sliceupdate(self, node: Node) -> None:
        """The array is copied first, and then the part is written to. MLX skips the copy if nothing else holds the
        array's memory, which is not modelled: in ``a[...] += b``, the kernel that has read ``a`` holds it."""
        self._pay("SliceUpdate", node.inputs[:2], node.outputs, kernels=2, copied=True)
        self._written("SliceUpdate", node.inputs[1])

    def _pad(self, node: Node) -> None:
        """The result is filled first, and then written to."""
        self._pay("Pad", node.inputs[:1], node.outputs, kernels=2, copied=True)
        self._written("Pad", node.inputs[0])

    def _gather(self, node: Node) -> None:
        """Only the requested rows are read."""
        self._pay("Gather", node.inputs[1:], node.outputs)
        self._extra("Gather", self._arrays[node.outputs[0]].bytes, self._arrays[node.outputs[0]].dtype)

    _gatheraxis = _gather

    def _contiguous(self, node: Node) -> None:
        if self._arrays[node.inputs[0]].in_rows:
            self._view(node.outputs[0], node.inputs[0], self._arrays[node.inputs[0]].strides)
        else:
            self._pay("Copy for Contiguous", node.inputs, node.outputs, copied=True)

    def _kernel(self, node: Node) -> None:
        """One of our own kernels. MLX first makes its inputs contiguous if they are not."""
        for name in node.inputs:
            if not self._arrays[name].in_rows:
                self._copy(node, name)
        self._pay(node.kind, list(dict.fromkeys(node.inputs)), node.outputs)

    def _other(self, node: Node) -> None:
        """A kernel that reads its inputs and writes its outputs."""
        if node.kind in ELEMENTWISE and len(node.inputs) == 1 and self._arrays[node.inputs[0]].dense:
            self._arrays[node.outputs[0]].strides = self._arrays[node.inputs[0]].strides
        self._pay(node.kind, list(dict.fromkeys(node.inputs)), node.outputs)


def _type(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]
