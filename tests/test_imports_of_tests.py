"""Tests, benchmarks, campaigns, planted faults and full-size runs import tests/support and never each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"}
PACKAGES = {"bench", "campaigns", "faults", "fullsize", "macos", "wheels"}
"""Programs; each may import its own modules, and so may the tests beside them."""


def modules(source):
    """Yield what the file imports anywhere: ``from a import b`` counts as ``a`` and as ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong(path, source):
    """Return the imports of ``path`` (relative to tests/) that no file there may have."""
    top = path.parts[0]
    allowed = {"support"} | ({top} & PACKAGES)
    found = []
    for module in modules(source):
        first, *rest = module.split(".")
        neighbour = first in FOLDERS and first not in allowed
        of_a_test = any(part.startswith("test_") or part == "conftest" for part in (first, *rest[:1]))
        if neighbour or (of_a_test and first in FOLDERS | {"tests"}) or first in {"tests", "conftest"}:
            found.append(module)
    return found


def test_nothing_but_support_is_shared():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 200
    found = {str(path.relative_to(ROOT)): wrong(path.relative_to(ROOT), path.read_text("utf-8")) for path in files}
    assert {path: modules for path, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("support/host.py", "from campaigns.report import Row"),
        ("daemon/test_edit.py", "    from campaigns.saving import forked"),
        ("daemon/test_prepare.py", "import fullsize.run"),
        ("campaigns/kills.py", "from bench import run"),
        ("campaigns/kills.py", "from campaigns.test_store import missed"),
        ("fullsize/run.py", "from bench.run import main"),
        ("bench/layout.py", "from models.conftest import store"),
        ("models/test_store.py", "from models.test_derive import made_files"),
        ("models/test_store.py", "from models.helpers import entry_for"),
        ("test_makefile.py", "from faults.run import read"),
        ("daemon/test_edit.py", "from tests.support import host"),
        ("daemon/test_edit.py", "import conftest"),
    ],
)
def test_a_wrong_import_is_noticed(path, line):
    assert wrong(Path(path), "if True:\n    from support import hub\n    import json, models_of\n") == []
    assert len(wrong(Path(path), f"def f():\n    import json\n    {line.strip()}\n")) == 1
