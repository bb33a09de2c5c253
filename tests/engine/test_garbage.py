"""Every garbage collection skips the objects that libraries consist of."""

import gc
import subprocess
import sys

import pytest

from locara_sidecar.engine import garbage

COUNTED = """
import gc, sys
from locara_sidecar.engine.runtime import create, named
from locara_sidecar.machine.supported import FAMILIES

create(sys.argv[1], sys.argv[2], {})
for row in FAMILIES.values():
    named(row.adapters[sys.argv[1]])
assert gc.isenabled()
print(len(gc.get_objects()), gc.get_freeze_count())
"""


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.enable()


def searched(thing):
    """Return whether a garbage collection looks at a thing.

    The number of skipped objects would say less: it falls when an old one is freed.
    """
    return any(one is thing for one in gc.get_objects())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that has not been imported."""
    (tmp_path / "never_seen.py").write_text("import gc\nsearched = gc.isenabled()\nkept = [[] for _ in range(100)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: __import__("never_seen")
    sys.modules.pop("never_seen", None)


def test_nothing_is_searched_while_modules_are_imported_and_they_are_left_out_later(module):
    with garbage.importing():
        imported = module()
    assert not imported.searched
    assert gc.isenabled()
    assert not searched(imported.kept)


def test_where_nothing_is_imported_all_is_searched_as_before():
    with garbage.importing():
        kept = [[]]
    assert searched(kept)


def test_the_outermost_one_ends_it(module):
    with garbage.importing():
        with garbage.importing():
            imported = module()
        assert not gc.isenabled()
        assert searched(imported.kept)
    assert gc.isenabled()
    assert not searched(imported.kept)


def test_a_process_that_does_not_search_is_left_so(module):
    gc.disable()
    with garbage.importing():
        imported = module()
    assert not gc.isenabled()
    assert searched(imported.kept)


def test_an_import_that_fails_leaves_it_as_it_was():
    with pytest.raises(ImportError), garbage.importing():
        __import__("there_is_no_such_module")
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_an_engine_searches_a_small_part_of_its_objects(engine, tmp_path):
    pytest.importorskip(engine)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, engine, str(tmp_path)], capture_output=True, text=True, timeout=180, check=True
    )
    searched, left_out = map(int, done.stdout.split())
    assert searched < left_out / 20
