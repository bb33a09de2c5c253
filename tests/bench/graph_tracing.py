"""MLX's lazy graph of a call at full size, without Metal, without weights and without computing anything.

``mx.export_function`` gives the graph, but on a CPU it decomposes ``mx.fast``'s functions and ignores
``mx.compile``. So both are replaced here, before anything of ``mlx.nn`` is imported, by functions that leave a mark in
the graph: ``mx.depends`` with a number that identifies them. Therefore this module needs its own process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bench.metal_graph import Array, Graph, Node
from bench.metal_rules import Count, Ledger

if "mlx.nn" in sys.modules:
    raise ImportError("bench.graph_tracing comes before mlx.nn: run the benchmark in a process of its own")

_FIRST_MARK = 77_000
_FAST = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm", "rope": "RoPE", "scaled_dot_product_attention": "Attention"}
_real: dict[str, Any] = {name: getattr(mx.fast, name) for name in _FAST}
_real |= {"compile": mx.compile, "eval": mx.eval, "async_eval": mx.async_eval}

Call = Callable[..., Any]


class _Trace:
    """The current trace: ``marks`` are nodes by the number of their mark, ``depth`` counts nested functions,
    ``compiled`` those that are compiled."""

    def __init__(self) -> None:
        self.marks: list[Node] = []
        self.depth = self.compiled = 0
        self.count = Count()

    def mark(self, node: Node) -> mx.array:
        self.marks.append(node)
        return mx.array(_FIRST_MARK + len(self.marks) - 1)


_trace = _Trace()


def stand_in(shape: tuple[int, ...], dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    """Return an array that exists but takes no memory."""
    array = mx.broadcast_to(mx.array(0, dtype), shape)
    _real["eval"](array)
    return array


def weightless(model: Any, dtype: mx.Dtype = mx.bfloat16) -> Any:
    """Return the model with parameters of the right shapes, floating-point ones as ``dtype``, that take no memory."""
    from mlx.utils import tree_map

    def light(value: mx.array) -> mx.array:
        return stand_in(value.shape, dtype if mx.issubdtype(value.dtype, mx.floating) else value.dtype)

    model.update(tree_map(light, model.parameters()))
    return model


def leaves(tree: Any) -> list[mx.array]:
    """Return all arrays in nested tuples and lists."""
    if isinstance(tree, mx.array):
        return [tree]
    return [leaf for part in tree for leaf in leaves(part)]


def counted(call: Call, *arrays: mx.array) -> Count:
    """Count what ``call(*arrays)`` asks Metal to do."""
    global _trace
    _trace = _Trace()
    graph = _graph(lambda *given: leaves(call(*given)), arrays)
    Ledger(graph.arrays, _trace.count).run(graph.nodes)
    return _trace.count


def _graph(call: Call, arrays: Any) -> Graph:
    entries: list[dict[str, Any]] = []
    _trace.depth += 1
    try:
        mx.export_function(entries.append, call, *arrays)
    finally:
        _trace.depth -= 1
    graph = Graph([], [], [], {})
    marks: dict[str, int] = {}
    for entry in entries:
        match entry["type"]:
            case "inputs":
                graph.inputs = [name for name, _, _ in entry["inputs"]]
                graph.arrays |= {name: Array(tuple(shape), dtype) for name, shape, dtype in entry["inputs"]}
            case "outputs":
                graph.outputs = [name for name, _, _ in entry["outputs"]]
            case "constants":
                for name, value in entry["constants"]:
                    graph.arrays[name] = Array(tuple(value.shape), value.dtype, constant=True)
                    if value.dtype == mx.int32 and value.size == 1 and value.item() >= _FIRST_MARK:
                        marks[name] = value.item() - _FIRST_MARK
            case "primitive":
                graph.nodes.append(_node(entry, marks))
                graph.arrays |= {name: Array(tuple(shape), dtype) for name, shape, dtype in entry["outputs"]}
            case _:
                pass
    return graph


def _metal_kernel(name: str, input_names: list[str], output_names: list[str], source: str) -> Call:
    """One of our own kernels: it reads its inputs and writes its outputs, once each."""
    del input_names, output_names, source

    def marked(*, inputs: list[mx.array], output_shapes: Any, output_dtypes: Any, **how: Any) -> list[mx.array]:
        del how
        stands = [stand_in(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
        return mx.depends(stands, [*inputs, _trace.mark(Node("Kernel", [name], [], []))])

    return marked


def _node(entry: dict[str, Any], marks: dict[str, int]) -> Node:
    inputs = [name for name, _, _ in entry["inputs"]]
    outputs = [name for name, _, _ in entry["outputs"]]
    if entry["name"] != "Depends" or inputs[-1] not in marks:
        return Node(entry["name"], entry["arguments"], inputs, outputs)
    marked = _trace.marks[marks[inputs[-1]]]
    if marked.kind == "Kernel":
        return Node(marked.kind, marked.arguments, inputs[len(outputs) : -1], outputs)
    if marked.inner is None:
        return Node(marked.kind, [], inputs[:-1], outputs)
    return Node("Compiled", [], inputs[len(outputs) : -1], outputs, marked.inner)


def _fast(name: str, kind: str) -> Call:
    def marked(*args: Any, **named: Any) -> mx.array:
        if not _trace.depth:
            return _real[name](*args, **named)
        x, *held = [value for value in (*args, *named.values()) if isinstance(value, mx.array)]
        held = [value for value in held if value.size > 1]
        if kind == "Attention":
            held = [value if value.dtype == mx.bool_ else value.astype(x.dtype) for value in held]
        elif kind != "RoPE":
            for value in held:
                x = x.astype(mx.result_type(x, value))
        return mx.depends([x], [*held, _trace.mark(Node(kind, [], [], []))])[0]

    return marked


def _compile(fun: Any = None, *rest: Any, **named: Any) -> Any:
    if fun is None:
        return lambda given: _compile(given, *rest, **named)
    real = _real["compile"](fun, *rest, **named)

    def marked(*args: Any, **kwargs: Any) -> Any:
        if not _trace.depth:
            return real(*args, **kwargs)
        if _trace.compiled:  # inside another function it is part of that one
            return fun(*args, **kwargs)
        from mlx.utils import tree_map

        given = _flat((args, kwargs))
        made: list[Any] = []

        def inner(*arrays: mx.array) -> list[mx.array]:
            left = iter(arrays)
            bound = tree_map(lambda value: next(left) if isinstance(value, mx.array) else value, (args, kwargs))
            made.append(fun(*bound[0], **bound[1]))
            return _flat(made[-1])

        _trace.compiled += 1
        try:
            graph = _graph(inner, [stand_in(value.shape, value.dtype) for value in given])
        finally:
            _trace.compiled -= 1
        stands = [stand_in(value.shape, value.dtype) for value in _flat(made[-1])]
        linked = iter(mx.depends(stands, [*given, _trace.mark(Node("Compiled", [], [], [], graph))]))
        return tree_map(lambda _: next(linked), made[-1])

    return marked


def _flat(tree: Any) -> list[mx.array]:
    from mlx.utils import tree_flatten

    found: Any = tree_flatten(tree)
    return [value for _, value in found if isinstance(value, mx.array)]


def _handed(name: str) -> Call:
    def called(*arrays: Any) -> None:
        if not _trace.depth:
            _real[name](*arrays)
        elif name == "async_eval":
            _trace.count.graphs += 1

    return called


for _name, _kind in _FAST.items():
    setattr(mx.fast, _name, _fast(_name, _kind))
mx.fast.metal_kernel = _metal_kernel
mx.compile, mx.eval, mx.async_eval = _compile, _handed("eval"), _handed("async_eval")
