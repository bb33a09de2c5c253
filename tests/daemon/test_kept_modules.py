"""A bundle's daemon has all modules that it may need, because an update may replace the folder while it runs."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import locara_protocol
from locara_sidecar.daemon.process import kept_modules

PACKAGE = Path(kept_modules.__file__).parents[2]
PROTOCOL = Path(locara_protocol.__file__).parent
NEVER = {"torch", "mlx", "diffusers", "transformers", "huggingface_hub", "PIL", "numpy"}
OF_WORKERS = {"locara_sidecar.models.downloads", "locara_sidecar.models.checks.engine_check"}
KEPT = """
import json, os, sys
from importlib.machinery import PathFinder
import locara_protocol
from locara_sidecar.daemon import serve
from locara_sidecar.daemon.process import kept_modules
kept = kept_modules.keep()
print(json.dumps([kept, sorted(sys.modules)]))
sys.meta_path.remove(PathFinder)  # nothing is found on the disk any more
gone = tuple(os.path.dirname(module.__file__) for module in (os, __import__("locara_sidecar"), locara_protocol))

def refuse(event, args):
    if event == "open" and str(args[0]).startswith(gone):
        raise FileNotFoundError(2, "it was replaced", args[0])

sys.addaudithook(refuse)
"""
IMPORT = """
import importlib
wanted = json.loads(sys.argv[1])
failed = {}
for name in wanted:
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        failed[name] = str(error)
print(json.dumps([failed, sorted(sys.modules)]))
"""


def run(script, *args):
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def ours():
    """Return the names of the modules that the daemon may import."""
    files = [file for part in kept_modules._PARTS for file in (PACKAGE / part).rglob("*.py")]
    files += [file for file in PROTOCOL.rglob("*.py") if "examples" not in file.parts]
    roots = {PACKAGE: "locara_sidecar", PROTOCOL: "locara_protocol"}
    for file in files:
        root = next(root for root in roots if file.is_relative_to(root))
        parts = (roots[root], *file.with_suffix("").relative_to(root).parts)
        name = ".".join(parts).removesuffix(".__init__")
        if not name.startswith(tuple(OF_WORKERS)):
            yield name, file


def test_without_a_file_all_our_modules_and_what_they_import_can_be_imported():
    names = sorted({name for name, _ in ours()})
    assert {"locara_sidecar.daemon.engine_host.client", "locara_sidecar.models.cache.store"} <= set(names)
    inside = {name for _, file in ours() for name in deferred(file)}  # inside functions, perhaps much later
    assert {"difflib", "psutil"} <= inside
    elsewhere = {"msvcrt", "winreg"}  # Windows'
    _, (failed, imported) = run(KEPT + IMPORT, json.dumps([*names, *sorted(inside - elsewhere)]))
    assert failed == {}
    assert NEVER.isdisjoint(imported)


def deferred(file):
    """Yield the third-party modules that are imported inside functions of a file."""
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.module.startswith("locara_"):
                    yield node.module


def test_keeping_imports_none_of_ours():
    """Keeping costs a running daemon memory and time; only modules that were not imported yet need it."""
    ((kept, imported),) = run(KEPT)
    assert kept > 200
    assert "locara_sidecar.daemon.engine_host.client" not in imported
    assert "difflib" not in imported


@pytest.fixture
def finder(monkeypatch):
    made = kept_modules._Finder()
    monkeypatch.setattr(sys, "meta_path", [made, *sys.meta_path])
    return made


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in a package, whose files can be replaced."""
    package = tmp_path / "replaced_package"
    package.mkdir()
    (package / "__init__.py").write_text("version = 'old'\n")
    (package / "inner.py").write_text("version = 'old'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in ("replaced_package", "replaced_package.inner"):
        sys.modules.pop(name, None)


def compile_unchecked(file):
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", file.parent], check=True
    )
    assert Path(importlib.util.cache_from_source(str(file))).is_file()


@pytest.mark.parametrize("compiled", [True, False])
def test_what_was_kept_is_imported_and_not_what_took_its_place(finder, module, compiled):
    if compiled:
        compile_unchecked(module / "inner.py")
    finder.add("replaced_package", str(module / "__init__.py"))
    finder.add("replaced_package.inner", str(module / "inner.py"))
    for file in module.rglob("*.py*"):
        file.write_text("version = 'new'\n")
    inner = importlib.import_module("replaced_package.inner")
    assert inner.version == "old"
    assert inner.__file__ == str(module / "inner.py")
    assert importlib.import_module("replaced_package").__path__ == [str(module)]


def test_keeping_comes_before_what_is_on_the_disk(monkeypatch, module):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(kept_modules, "_modules", lambda: iter([("replaced_package", str(module / "__init__.py"))]))
    monkeypatch.setattr(kept_modules, "_EXTENSIONS", ())
    kept_modules.keep()
    (module / "__init__.py").write_text("version = 'new'\n")
    assert importlib.import_module("replaced_package").version == "old"


def test_code_compiled_for_another_python_or_perhaps_older_than_its_source_is_not_kept(finder, module):
    compile_unchecked(module / "inner.py")
    compiled = Path(importlib.util.cache_from_source(str(module / "inner.py")))
    good = compiled.read_bytes()
    for bad in (b"\0\0\0\0" + good[4:], good[:4] + bytes(4) + good[8:], b""):
        compiled.write_bytes(bad)
        finder.add("replaced_package.inner", str(module / "inner.py"))
        assert finder.kept["replaced_package.inner"][1:] == (b"version = 'old'\n", False)


def test_a_module_that_cannot_be_read_is_left_out(monkeypatch, module):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    found = [("replaced_package.gone", str(module / "gone.py")), ("replaced_package", str(module / "__init__.py"))]
    monkeypatch.setattr(kept_modules, "_modules", lambda: iter(found))
    monkeypatch.setattr(kept_modules, "_EXTENSIONS", ("no_such_extension",))
    assert kept_modules.keep() == 1


@pytest.fixture
def installation(module, monkeypatch):
    """The module's folder stands for the whole installation; modules are not kept yet."""
    monkeypatch.setattr(sys, "prefix", str(module.parent))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(kept_modules.program, "_first", [])
    kept_modules.wait_until_kept()
    return module.parent


@pytest.mark.parametrize("seen", [True, False])
def test_an_import_between_an_update_s_two_renames_waits_for_the_second(installation, seen):
    if seen:
        importlib.import_module("replaced_package")
    away = installation.with_name("away")
    installation.rename(away)
    timer = threading.Timer(0.3, away.rename, [installation])
    timer.start()
    assert importlib.import_module("replaced_package.inner").version == "old"
    timer.join()


def test_a_module_whose_file_is_renamed_as_it_is_read_is_read_again(module):
    """This used to end a daemon that had already answered, while it imported its event loop."""
    (module / "first.py").write_text("version = 'old'\n")
    (module / "inner.py").write_text(
        "import pathlib\nfrom . import first\nonce = pathlib.Path(__file__).with_name('once')\n"
        "if not once.exists():\n    once.touch()\n    open('/no/such/file')\n"
    )
    kept_modules.load("replaced_package.inner")
    assert "replaced_package.inner" in sys.modules
    sys.modules.pop("replaced_package.first")
    with pytest.raises(ImportError):
        kept_modules.load("replaced_package.no_such_module")


def test_a_reader_whose_file_is_gone_does_not_end_the_keeping(monkeypatch, module):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (module / "inner.py").write_text("open('/no/such/file')\n")
    monkeypatch.setattr(kept_modules, "_modules", lambda: iter(()))
    monkeypatch.setattr(kept_modules, "_READERS", ("replaced_package.inner",))
    assert kept_modules.keep() == 0


def test_a_module_that_there_is_not_is_not_waited_for(installation, monkeypatch):
    looks = []
    monkeypatch.setattr(
        kept_modules.program, "find", lambda *, wait=True: looks.append(wait) or kept_modules._patient.since
    )
    with pytest.raises(ImportError):
        importlib.import_module("no_such_module")
    assert looks == [False]


@pytest.mark.parametrize("bundled", [True, False])
def test_nothing_waits_once_modules_are_kept_or_need_not_be(installation, monkeypatch, bundled):
    monkeypatch.setattr(kept_modules.bundle, "folder", lambda: installation if bundled else None)
    monkeypatch.setattr(kept_modules, "keep", lambda: 1)
    kept_modules._keep_in_bundle()
    kept_modules._keep_in_bundle()
    assert kept_modules._patient not in sys.meta_path


def test_modules_are_kept_once_a_folder_that_is_away_is_back(installation, monkeypatch):
    monkeypatch.setattr(kept_modules.bundle, "folder", lambda: installation if installation.exists() else None)
    monkeypatch.setattr(kept_modules, "keep", lambda: kept.append(1) or 1)
    kept, away = [], installation.with_name("away")
    installation.rename(away)
    timer = threading.Timer(0.3, away.rename, [installation])
    timer.start()
    kept_modules._keep_in_bundle()
    timer.join()
    assert kept == [1]


@pytest.mark.parametrize("bundled", [True, False])
def test_that_is_done_in_a_bundle_only(monkeypatch, bundled):
    asked = []
    monkeypatch.setattr(kept_modules.bundle, "folder", lambda: PACKAGE if bundled else None)
    monkeypatch.setattr(kept_modules, "keep", lambda: asked.append(True) or 1)
    kept_modules._keep_in_bundle()
    assert asked == [True] * bundled
