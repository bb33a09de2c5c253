"""Code that a planted fault changes is found by what it means, not by how it is written."""

import ast

import pytest

from faults.fragments import with_code
from faults.run import Change

CODE = '''"""ü"""
SIZES = {"ü": 1, "b": 2, **{}}

class Reader:
    def read(self, size=1, *, wait=True):
        """One line of text."""
        if size > len(  # ü
            self.name
        ):
            raise ValueError(f"{size} of {len(self.name)}", 'too long')
        elif size:
            size = (size
                    + 1)
        try:
            self.opened(size, wait=wait, mode=3)
            for each in "ü", size:
                self.opened("ü", each)
        except (OSError, ValueError) as error:  # both
            # of the file
            self.closed(error)
            return None
        else:
            self.closed()
            self.closed()
        with self.lock:
            return size, [1, 2, size > 2]

    @property
    def name(self):
        return self._name

    @name.setter
    def name(self, name):
        self._name = name
'''


@pytest.mark.parametrize(
    ("symbol", "old", "new", "text", "instead"),
    [
        # expressions
        (
            "Reader.read",
            "size > len(self.name)",
            "False",
            "size > len(  # ü\n            self.name\n        )",
            "(False)",
        ),
        ("Reader.read", "size+1", "size and 2", "(size\n                    + 1)", "((size and 2))"),
        ("Reader.read", "'ü', size", "(size,\n 2)", '"ü", size:', "((size,\n 2)):"),
        ("SIZES", '{"ü": 1, "b": 2, **{}}', "{}", '{"ü": 1, "b": 2, **{}}', "({})"),
        ("Reader", "self._name", "None", "return self._name", "return (None)"),
        ("Reader.read", 'f"{size} of {len(self.name)}"', "''", 'f"{size} of {len(self.name)}"', "('')"),
        # first lines
        ("Reader.read", "if size:", "if not size:", "elif size:\n", "elif not size:\n"),
        ("Reader.read", "with self.lock:", "if True:", "with self.lock:", "if True:"),
        (
            "Reader.read",
            "except (OSError, ValueError) as error:",
            "except OSError as error:",
            "except (OSError, ValueError) as error:  # both\n            # of the file\n",
            "except OSError as error:\n",
        ),
        (
            "Reader.read",
            "def read(self, size=1, *, wait=True):",
            "def read(self, size=1, wait=True):",
            "self, size=1, *, wait",
            "self, size=1, wait",
        ),
        # statements
        ("Reader.read", "self.closed()\nself.closed()", "", "self.closed()\n            self.closed()\n", "pass\n"),
        ("Reader.read", "return None", "", "return None\n", "\n"),
        ("Reader.read", "return None", "if error:\n    raise", "return None", "if error:\n                raise"),
        (
            "Reader.read",
            "    self.closed(error)\n    return None\n",
            "raise",
            "self.closed(error)\n            return None",
            "raise",
        ),
        (
            "Reader",
            "@property\ndef name(self):\n    return self._name",
            "",
            "@property\n    def name(self):\n        return self._name",
            "",
        ),
        # arguments and elements
        ("Reader.read", "mode=3", "mode=4, more=5", "mode=3", "mode=4, more=5"),
        ("Reader.read", "wait=wait, mode=3", "", ", wait=wait, mode=3", ""),
        ("Reader.read", "wait=wait", "", " wait=wait,", ""),
        ("Reader.read", "OSError", "", "OSError,", ""),
        ("Reader.read", "1, 2", "*[], 2", "1, 2", "*[], 2"),
        # entries
        ("SIZES", "'ü': 1", "'ü': 0, 'c': 3", '"ü": 1', "'ü': 0, 'c': 3"),
        ("SIZES", "'b': 2", "", ' "b": 2,', ""),
        ("SIZES", "**{}", "'b': 3", "**{}", "'b': 3"),
    ],
)
def test_code_is_replaced_where_its_symbol_is(symbol, old, new, text, instead):
    assert CODE.count(text) == 1
    assert with_code(CODE, symbol, old, new).split() == CODE.replace(text, instead).split()
    assert ast.dump(ast.parse(with_code(CODE, symbol, old, new))) == ast.dump(ast.parse(CODE.replace(text, instead)))


@pytest.mark.parametrize(
    ("symbol", "old", "new", "told"),
    [
        ("Reader.read", "size > 3", "False", "not in"),
        ("Reader.read", "if size:", "", "kind"),
        ("Reader.read", "mode=3", "2 3", "kind"),
        ("Reader.read", "self.closed()", "pass", "2 times"),
        ("Reader.read", "self._name", "None", "not in"),
        ("Reader.name", "self._name", "None", "2 times"),
        ("Writer", "self._name", "None", "0 times"),
        ("Reader.read", "'ü'", "''", "2 times"),
        ("Reader.read", "f'{size}'", "''", "not in"),
        ("Reader.read", "size > 2", "(size\n> 2)", "same"),
        ("Reader.read", "", "pass", "not in"),
        ("Reader.read", "1, 2, size > 2", "*", "kind"),
    ],
)
def test_code_that_is_not_once_in_its_symbol_is_told(symbol, old, new, told):
    with pytest.raises(LookupError, match=told):
        with_code(CODE, symbol, old, new)


def test_a_change_that_is_not_python_is_told():
    with pytest.raises(LookupError, match="not Python"):
        with_code("def f(a):\n    return [(a), 2]\n", "f", "a, 2", "")


def test_what_stands_around_code_and_how_it_is_written_does_not_matter(tmp_path):
    change = Change("a.py", symbol="f", old="if a and b: return 1", new="")
    for source in (
        "def f(a, b):\n    if a and b:\n        return 1\n",
        "if a and b: return_ = 1\ndef f(a, b):\n  # of both\n  if (a\n      and b): return (1)  # one\n  return 2\n",
    ):
        (tmp_path / "a.py").write_text(source)
        assert "if a and b: return_" in source or "pass" in change.planted(tmp_path)
        assert "return 1" not in change.planted(tmp_path)
        assert "return (1)" not in change.planted(tmp_path)
