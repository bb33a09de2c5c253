"""What keeps the tree easy to read: short files, and one place for each decision about a call."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIDECAR = ROOT / "sidecar" / "locara_sidecar"
MOST_LINES = 400
_SUFFIXES = {".py", ".rs", ".ts", ".tsx", ".mjs"}
_BUILT = {"node_modules", "dist", "target", "build", "__pycache__"}


def sources(folder):
    """Yield the source files that people write below a folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _BUILT and not path.name.startswith("."):
            yield from sources(path)
        elif path.suffix in _SUFFIXES and "Generated " not in path.read_text("utf-8")[:20]:
            yield path


def test_no_file_is_too_long():
    found = {
        str(path.relative_to(ROOT)): lines
        for folder in ("sidecar", "protocol", "packaging", "tests", "fixtures")
        for path in sources(ROOT / folder)
        if (lines := path.read_text("utf-8").count("\n")) > MOST_LINES
    }
    assert found == {}


def calls(source):
    """Yield the name of everything that is called in the source: ``a.b.c()`` counts as ``c``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name, value=ast.Name(id="frames" | "resolve")):
                    yield name


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("resolve", "daemon/images/image_calls.py"),
        ("model_spec", "daemon/access/model_use.py"),
        ("JobSpec", "daemon/images/generation.py"),
        ("LoadSpec", "daemon/model_methods/engine_calls.py"),
        ("PrepareSpec", "daemon/model_methods/preparing.py"),
    ],
)
def test_a_call_is_resolved_once_and_described_to_the_engine_in_one_place(name, place):
    found = [
        str(path.relative_to(SIDECAR))
        for path in sorted((SIDECAR / "daemon").rglob("*.py"))
        for called in calls(path.read_text("utf-8"))
        if called == name
    ]
    assert found == [place]


def test_what_an_engine_gets_as_a_model_is_made_of_its_catalogue_entry_and_never_of_dummies():
    found = [
        str(path.relative_to(SIDECAR))
        for path in sorted(SIDECAR.rglob("*.py"))
        if "ModelSpec" in calls(path.read_text("utf-8"))
    ]
    assert found == ["models/model_specs.py"]


def asks_the_gate(source):
    """Whether the source imports ``authorize``, or the whole module with it."""
    rules = "locara_sidecar.capability.authorize"
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return not imported.isdisjoint({rules, f"{rules}.authorize"})


def test_the_gate_is_asked_in_one_module():
    asking = [
        str(path.relative_to(SIDECAR))
        for path in sorted(SIDECAR.rglob("*.py"))
        if asks_the_gate(path.read_text("utf-8"))
    ]
    assert asking == ["daemon/access/gate.py"]


@pytest.mark.parametrize(
    "line",
    [
        "from locara_sidecar.capability.authorize import Grant, authorize as ask",
        "from locara_sidecar.capability import authorize",
        "import locara_sidecar.capability.authorize as rules",
    ],
)
def test_whoever_asks_the_gate_is_noticed(line):
    assert asks_the_gate(f"def f():\n    {line}\n")
    assert not asks_the_gate("from locara_sidecar.capability.authorize import Grant\nimport os\n")
