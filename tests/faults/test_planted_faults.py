"""The lists of planted faults (``make planted-faults``) fit the current code."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from faults.run import LISTS, ROOT, Change, Copy, _row, _rows, _unsound, read
from faults.symbols import with_body, with_value

FAULTS = read()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.area}: {fault.breaks}")
def test_what_a_fault_changes_is_there_once_and_so_are_its_tests(fault):
    for change in fault.changes:
        change.planted(ROOT)
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists()
        assert not name or f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("mlx", "torch"))), reason="tests of an engine that is absent are not there")
def test_each_selection_picks_a_test():
    files = sorted({test.partition("::")[0] for fault in FAULTS if fault.select for test in fault.tests})
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", *files]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ids = [line for line in told.splitlines() if "::" in line]
    assert ids
    assert [fault.breaks for fault in FAULTS if fault.select and not any(picks(fault, each) for each in ids)] == []


def picks(fault, test):
    """Return whether the fault's ``-k`` picks this test of one of its files, by the words in the test's id."""
    if not test.startswith(fault.tests):
        return False
    words = re.sub(
        r"[^\s()]+",
        lambda word: word[0] if word[0] in ("and", "or", "not") else str(word[0].lower() in test.lower()),
        fault.select,
    )
    return eval(words)  # True, False, and, or, not, brackets


FORMS = [{"old", "new"}, {"symbol", "old", "new"}, {"symbol", "replace"}, {"symbol", "body"}]


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_row_has_one_form_and_no_other_members(path):
    for row in _rows(path):
        assert row.keys() <= {"breaks", "file", "tests", "select", "more", *set.union(*FORMS)}
        assert row.keys() & set.union(*FORMS) in FORMS, row["breaks"]
        for part in row.get("more", []):
            assert part.keys() - {"file"} in FORMS, row["breaks"]


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_row_quotes_only_what_is_in_no_symbol_or_inside_a_text(path):
    quotes = [part for row in _rows(path) for part in [row, *row.get("more", [])] if "symbol" not in part]
    for part in quotes:
        source = (ROOT / part["file"]).read_text()
        if part["file"].endswith(".py"):
            assert is_code_of_no_symbol(source, source.index(part["old"].rstrip())), part["old"]


def is_code_of_no_symbol(source, place):
    """Return whether this is outside of all definitions and assignments, or inside a text of several lines."""
    line, tree = source.count("\n", 0, place) + 1, ast.parse(source)
    around = [node for node in ast.walk(tree) if hasattr(node, "lineno") and node.lineno <= line <= node.end_lineno]
    texts = [node for node in around if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(node.lineno < node.end_lineno for node in texts) or not any(map(is_symbol, around))


def is_symbol(node):
    if isinstance(node, ast.Assign):  # not of several names at once
        return isinstance(node.targets[0], ast.Name)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.AnnAssign)


def test_no_sentence_stands_twice():
    sentences = [fault.breaks for fault in FAULTS]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.slow
def test_a_fault_fails_its_tests_and_is_taken_out_again(tmp_path):
    fault = next(fault for fault in FAULTS if fault.breaks == "blank lines are skipped")
    copy = Copy(Path(tmp_path))
    before = (tmp_path / fault.changes[0].file).read_bytes()
    assert copy.test(fault.tests, "blank")[0] == 0
    status, failed = copy.test_with(fault._replace(select="blank"))
    assert (status, failed.partition(" ")[0]) == (1, "protocol/test_framing.py::test_blank_lines_are_skipped")
    assert (tmp_path / fault.changes[0].file).read_bytes() == before


@pytest.mark.slow
def test_what_fails_without_a_fault_spoils_its_own_faults_only(tmp_path):
    copy = Copy(tmp_path)
    (tmp_path / "tests/test_late.py").write_text(
        "import pathlib, pytest\n"
        "@pytest.mark.parametrize('words', ['a - b'])\ndef test_broken(words): assert not words\n"
        "def test_sound(): pass\n"
        "def test_late():\n"
        "    made = pathlib.Path(__file__).with_name('made')\n"
        "    was = made.exists()\n    made.touch()\n    assert was\n"
    )
    assert copy.unsound(("tests/test_late.py",), "") == ["tests/test_late.py::test_broken"]
    fault = next(fault for fault in FAULTS if fault.breaks == "blank lines are skipped")
    unsound = ["tests/test_late.py::test_broken"]
    row = _row(copy, fault._replace(tests=("tests/test_late.py",)), unsound)
    assert (row["outcome"], row["test"]) == ("UNSOUND", unsound[0])
    assert _row(copy, fault._replace(select="blank"), unsound)["outcome"] == "noticed"
    message = _unsound(copy, ("tests/nowhere.py",), "")
    assert "ended with 4" in message
    row = _row(copy, fault, message)
    assert (row["outcome"], row["test"]) == ("UNSOUND", message)


SOURCE = '''"""ü"""
LIMIT = 3  # ü

class Reader:
    size: int = 4

    def read(self):
        """One line of text."""
        if self.size: return "ü", 1  # of two
        def inner():
            return [
                1,
            ]
        return inner

    @property
    async def name(self):
        """Only it."""
        x = 1
        await self.read(); return x
'''


@pytest.mark.parametrize(
    ("symbol", "value", "line", "instead"),
    [
        ("LIMIT", "10**9", "LIMIT = 3  # ü", "LIMIT = 10**9  # ü"),
        ("Reader.size", "0", "    size: int = 4", "    size: int = 0"),
        ("Reader.name", "None", "return x", "return None"),
        ("Reader.read.inner", "[]", "return [\n                1,\n            ]", "return []"),
    ],
)
def test_a_value_is_replaced_where_its_symbol_is(symbol, value, line, instead):
    assert with_value(SOURCE, symbol, value) == SOURCE.replace(line, instead) != SOURCE


def test_a_body_is_replaced_and_the_docstring_stays():
    assert with_body(SOURCE, "Reader.name", "if self:\n    pass\n") == SOURCE.replace(
        "x = 1\n        await self.read(); return x", "if self:\n            pass"
    )
    assert with_body(SOURCE, "Reader.read.inner", "pass").count("pass") == 1


@pytest.mark.parametrize("symbol", ["Reader.read", "Reader", "Reader.nothing", "nothing", "inner", "Reader.read.size"])
def test_a_symbol_without_one_value_is_told(symbol):
    with pytest.raises(LookupError):
        with_value(SOURCE, symbol, "0")
    if symbol != "Reader.read":
        with pytest.raises(LookupError):
            with_body(SOURCE, symbol, "pass")


def test_a_change_that_changes_nothing_is_told(tmp_path):
    (tmp_path / "a.py").write_text("LIMIT = 3\n")
    assert Change("a.py", symbol="LIMIT", replace="4").planted(tmp_path) == "LIMIT = 4\n"
    for change in (
        Change("a.py", symbol="LIMIT", replace="3"),
        Change("a.py", old="LIMIT", new="LIMIT"),
        Change("a.py", symbol="LIMIT", old="3", new="3"),
    ):
        with pytest.raises(LookupError):
            change.planted(tmp_path)
    with pytest.raises(LookupError):
        Change("a.py", old="LIMIT = 4", new="").planted(tmp_path)
