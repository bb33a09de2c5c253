"""Changes to a Python file that name what they change, so that only the name must stay the same."""

from __future__ import annotations

import ast
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Scope = (*_Function, ast.ClassDef)


def with_body(source: str, symbol: str, body: str) -> str:
    """Return the source with ``body`` in place of the statements of the function ``symbol``; its docstring stays.

    :raises LookupError: there is no such function, or more than one.
    """
    function = definition(ast.parse(source), symbol)
    if not isinstance(function, _Function):
        raise LookupError(f"{symbol} is not a function")
    statements = function.body[ast.get_docstring(function) is not None :]
    if not statements:
        raise LookupError(f"{symbol} has nothing but a docstring")
    indent = " " * statements[0].col_offset
    return _spliced(source, statements[0], statements[-1], textwrap.indent(body.strip(), indent).lstrip())


def with_value(source: str, symbol: str, value: str) -> str:
    """Return the source with the expression ``value`` in place of what is assigned to ``symbol``, or of what it returns
    if it is a function with one ``return``.

    :raises LookupError: there is no such symbol, or more than one, or a function returns in several places.
    """
    found = definition(ast.parse(source), symbol)
    if isinstance(found, _Function):
        returns = [node for node in _own(found) if isinstance(node, ast.Return) and node.value is not None]
        if len(returns) != 1:
            raise LookupError(f"{symbol} has {len(returns)} returns")
        old = returns[0].value
    else:
        old = getattr(found, "value", None)
    if old is None:
        raise LookupError(f"{symbol} has no value")
    return _spliced(source, old, old, value.strip())


def definition(tree: ast.Module, symbol: str) -> ast.stmt:
    """Return the only definition or assignment of the dotted name."""
    scope: ast.stmt | ast.Module = tree
    for name in symbol.split("."):
        found = [node for node in _own(scope) if isinstance(node, ast.stmt) and name in _names(node)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} times {name} of {symbol}")
        scope = found[0]
    assert isinstance(scope, ast.stmt)
    return scope


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield everything in a scope, at any depth, except the contents of its functions and classes."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, (*_Scope, ast.Lambda)):
            yield from _own(node)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, _Scope):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _spliced(source: str, first: ast.stmt | ast.expr, last: ast.stmt | ast.expr, new: str) -> str:
    """Return the source with ``new`` in place of ``first`` to ``last``. The tree's columns count UTF-8 bytes."""
    lines = source.encode().splitlines(keepends=True)
    assert last.end_lineno is not None
    before = b"".join(lines[: first.lineno - 1]) + lines[first.lineno - 1][: first.col_offset]
    after = lines[last.end_lineno - 1][last.end_col_offset :] + b"".join(lines[last.end_lineno :])
    return (before + new.encode() + after).decode()
