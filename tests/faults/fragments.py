"""Changes to a piece of a Python file that is found by its meaning: what is compared are syntax trees."""

from __future__ import annotations

import ast
import copy
import re
import textwrap
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from faults.symbols import definition

if TYPE_CHECKING:
    from collections.abc import Iterator

_Placed: TypeAlias = ast.stmt | ast.expr | ast.excepthandler | ast.keyword


def with_code(source: str, symbol: str, old: str, new: str) -> str:
    """Return the source with the code ``new`` in place of ``old``, which is once in the definition of ``symbol``.

    Both are of one kind: an expression; the first line of a compound statement, up to its colon; statements; arguments
    of a call, or elements of a list, tuple or set; entries of a dictionary. The first kind as which ``old`` is found
    counts. If ``new`` is empty, the statements, arguments, elements or entries are removed.

    :raises LookupError: there is no such symbol, or not exactly once this code in it, or the result is not Python.
    """
    text = _Text(source)
    within = definition(ast.parse(source), symbol)
    for kind in (_Expression, _FirstLine, _Statements, _Items, _Entries):
        wanted, instead = kind.read(old), kind.read(new)
        if not wanted or instead is None:
            continue
        if wanted == instead:
            raise LookupError(f"{old!r} and {new!r} are the same code")
        lists = [parts for node in _walk(within) for parts in kind.lists(node, text)]
        runs = [run for parts in lists for run in _runs(parts, wanted)]
        if len(runs) > 1:
            raise LookupError(f"{old!r} is {len(runs)} times in {symbol}")
        if runs:
            changed = kind.spliced(text, runs[0], new)
            if _parsed(changed) is None:
                raise LookupError(f"{symbol} with {new!r} is not Python")
            return changed
    raise LookupError(f"{old!r} is not in {symbol}, or {new!r} is of another kind")


class _Part(NamedTuple):
    """A piece of a source: its syntax tree, as text, and where it begins and ends, in bytes."""

    tree: str
    start: int
    end: int


class _Run(NamedTuple):
    """Where parts begin and end that follow each other in a list, and whether the list has no others."""

    start: int
    end: int
    is_all: bool


class _Text:
    """A source in bytes, as syntax trees count its columns."""

    def __init__(self, source: str) -> None:
        self.data = source.encode()
        self._lines = [0, *accumulate(map(len, self.data.splitlines(keepends=True)))]

    def start(self, node: _Placed, *, decorated: bool = True) -> int:
        decorators: list[ast.expr] = getattr(node, "decorator_list", []) if decorated else []
        return self._lines[min(each.lineno for each in (node, *decorators)) - 1] + node.col_offset

    def end(self, node: _Placed) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def part(self, node: _Placed) -> _Part:
        return _Part(ast.dump(node), self.start(node), self.end(node))

    def indent(self, place: int) -> str:
        return " " * (place - max(line for line in self._lines if line <= place))

    def spliced(self, run: _Run, new: str) -> str:
        return (self.data[: run.start] + new.encode() + self.data[run.end :]).decode()


class _Expression:
    @staticmethod
    def read(code: str) -> list[str] | None:
        tree = _parsed(f"({code}\n)") if code.strip() else None
        return [ast.dump(tree.body[0].value)] if tree and isinstance(tree.body[0], ast.Expr) else None

    @staticmethod
    def lists(node: ast.AST, text: _Text) -> list[list[_Part]]:
        return [[text.part(child)] for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]

    @staticmethod
    def spliced(text: _Text, run: _Run, new: str) -> str:
        return text.spliced(run, f"({new.strip()})")


class _FirstLine:
    @classmethod
    def read(cls, code: str) -> list[str] | None:
        code = code.strip()
        if not code.endswith(":"):
            return None
        if tree := _parsed(f"{code} pass"):
            return [cls._tree(tree.body[0])]
        tree = _parsed(f"try: pass\n{code} pass")
        return [cls._tree(tree.body[0].handlers[0])] if tree and isinstance(tree.body[0], ast.Try) else None

    @classmethod
    def lists(cls, node: ast.AST, text: _Text) -> list[list[_Part]]:
        if not isinstance(node, ast.stmt | ast.excepthandler) or not hasattr(node, "body"):
            return []
        return [[_Part(cls._tree(node), text.start(node, decorated=False), text.start(_block(node, "body")[0]))]]

    @staticmethod
    def spliced(text: _Text, run: _Run, new: str) -> str:
        other = "el" if text.data[run.start :].startswith(b"elif") else ""
        return text.spliced(run, f"{other}{new.strip()}\n{text.indent(run.end)}")

    @staticmethod
    def _tree(node: ast.AST) -> str:
        alone = copy.copy(node)
        for name in {"body", "orelse", "finalbody", "handlers", "decorator_list"}.intersection(node._fields):
            setattr(alone, name, [])
        return ast.dump(alone)


class _Statements:
    @staticmethod
    def read(code: str) -> list[str] | None:
        tree = _parsed(textwrap.dedent(code))
        return None if tree is None else [ast.dump(node) for node in tree.body]

    @staticmethod
    def lists(node: ast.AST, text: _Text) -> list[list[_Part]]:
        if not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            return []
        return [[text.part(each) for each in _block(node, name)] for name in ("body", "orelse", "finalbody")]

    @staticmethod
    def spliced(text: _Text, run: _Run, new: str) -> str:
        new = textwrap.dedent(new).strip() or ("pass" if run.is_all else "")
        return text.spliced(run, textwrap.indent(new, text.indent(run.start)).lstrip())


class _Items:
    @staticmethod
    def read(code: str) -> list[str] | None:
        tree = _parsed(f"_({code}\n)")
        call = tree.body[0] if tree else None
        return [ast.dump(node) for node in _items(call.value)] if isinstance(call, ast.Expr) else None

    @staticmethod
    def lists(node: ast.AST, text: _Text) -> list[list[_Part]]:
        return [[text.part(each) for each in _items(node)]]

    @staticmethod
    def spliced(text: _Text, run: _Run, new: str) -> str:
        return _without_comma(text, run) if not new.strip() else text.spliced(run, new.strip())


class _Entries:
    @classmethod
    def read(cls, code: str) -> list[str] | None:
        tree = _parsed(f"{{{code}\n}}")
        if not tree or not isinstance(tree.body[0], ast.Expr) or not isinstance(tree.body[0].value, ast.Dict):
            return None
        return [cls._tree(key, value) for key, value in _entries(tree.body[0].value)]

    @classmethod
    def lists(cls, node: ast.AST, text: _Text) -> list[list[_Part]]:
        return [[cls._part(key, value, text) for key, value in _entries(node)]]

    @staticmethod
    def spliced(text: _Text, run: _Run, new: str) -> str:
        return _Items.spliced(text, run, new)

    @classmethod
    def _part(cls, key: ast.expr | None, value: ast.expr, text: _Text) -> _Part:
        start = text.start(key) if key else text.data.rfind(b"**", 0, text.start(value))
        return _Part(cls._tree(key, value), start, text.end(value))

    @staticmethod
    def _tree(key: ast.expr | None, value: ast.expr) -> str:
        return f"{ast.dump(key) if key else '**'}: {ast.dump(value)}"


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except SyntaxError:
        return None


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the node and all below it, but nothing inside an f-string: Python 3.11 does not know where that is."""
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in ast.iter_child_nodes(node):
            yield from _walk(child)


def _block(node: ast.AST, name: str) -> list[ast.stmt]:
    return cast("list[ast.stmt]", getattr(node, name, []))


def _items(node: ast.AST) -> list[ast.expr | ast.keyword]:
    if isinstance(node, ast.Call):
        return sorted([*node.args, *node.keywords], key=lambda each: (each.lineno, each.col_offset))
    return [*node.elts] if isinstance(node, ast.List | ast.Tuple | ast.Set) else []


def _entries(node: ast.AST) -> list[tuple[ast.expr | None, ast.expr]]:
    return list(zip(node.keys, node.values, strict=True)) if isinstance(node, ast.Dict) else []


def _runs(parts: list[_Part], wanted: list[str]) -> Iterator[_Run]:
    """Yield each run of parts that have these trees."""
    for first in range(len(parts) - len(wanted) + 1):
        run = parts[first : first + len(wanted)]
        if [part.tree for part in run] == wanted:
            yield _Run(run[0].start, run[-1].end, len(run) == len(parts))


def _without_comma(text: _Text, run: _Run) -> str:
    """Return the source without the run and the comma after it, or before it if it is the last."""
    after = re.match(rb"\s*,", text.data[run.end :])
    before = re.search(rb",\s*$", text.data[: run.start])
    end = run.end + after.end() if after else run.end
    start = before.start() if before and not after else run.start
    return text.spliced(run._replace(start=start, end=end), "")
