"""In a bundle the daemon soon has all modules that it may need, because an update may replace the folder."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import locara_protocol
from locara_sidecar.daemon import preload

PACKAGE = Path(preload.__file__).parents[1]
PROTOCOL = Path(locara_protocol.__file__).parent
NOT_THE_DAEMONS = tuple(preload._LEFT_OUT)
NEVER = {"torch", "mlx", "diffusers", "transformers", "huggingface_hub", "PIL", "numpy"}
ALL = """
import importlib, json, sys
from locara_sidecar.daemon import preload, serve
for name in preload.names():
    importlib.import_module(name)
print(json.dumps(list(sys.modules)))
"""


@pytest.fixture(scope="module")
def imported():
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "package", ["daemon", "capability", "ipc", "machine", "weights", "models/cache", "models/imports"]
)
def test_every_module_of_these_packages_is_imported(imported, package):
    files = [file.relative_to(PACKAGE.parent) for file in (PACKAGE / package).rglob("*.py")]
    names = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert len(names) > 1
    assert names - imported == set()


def test_what_these_packages_import_inside_functions_is_imported(imported):
    """A new version may have another Python, with another library."""
    wanted = {name for package in (PACKAGE, PROTOCOL) for file in package.rglob("*.py") for name in deferred(file)}
    assert {"difflib", "psutil"} <= wanted
    elsewhere = {"msvcrt", "winreg"}  # Windows'
    assert wanted - imported - elsewhere == set()


def deferred(file):
    """Yield the modules of others, and of the protocol, that are imported inside functions of a file."""
    name = ".".join(file.with_suffix("").relative_to(PACKAGE).parts) if file.is_relative_to(PACKAGE) else "protocol"
    if name.split(".")[0] not in (*preload._PACKAGES, "protocol") or name.startswith(NOT_THE_DAEMONS):
        return
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.module.startswith("locara_sidecar"):
                    yield node.module


def test_nothing_large_is_imported(imported):
    assert imported.isdisjoint(NEVER)


@pytest.mark.parametrize("bundled", [True, False])
def test_that_is_done_in_a_bundle_only(monkeypatch, bundled):
    asked = []
    monkeypatch.setattr(preload.bundle, "folder", lambda: PACKAGE if bundled else None)
    monkeypatch.setattr(preload, "names", lambda: iter(["one", "two"]))
    monkeypatch.setattr(preload.time, "sleep", lambda seconds: None)

    def found(name):
        asked.append(name)
        if name == "one":  # and another is imported all the same
            raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", found)
    preload._import_in_bundle()
    assert asked == (["one", "two"] if bundled else [])
