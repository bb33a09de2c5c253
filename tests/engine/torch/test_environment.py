"""What the engine does with its libraries before it reports that it is ready."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "AUTO,STRICT"), ("AVX2", "AVX2")])
def test_products_do_not_depend_on_where_in_memory_their_operands_lie(tmp_path, set_by_user, expected):
    from locara_sidecar.engine.torch_engine import environment

    kept = dict(os.environ)
    try:
        os.environ.pop("MKL_CBWR", None)
        if set_by_user:
            os.environ["MKL_CBWR"] = set_by_user
        environment.prepare(str(tmp_path))
        assert os.environ["MKL_CBWR"] == expected
    finally:
        os.environ.clear()
        os.environ.update(kept)


@pytest.mark.slow
def test_an_engine_that_is_ready_has_imported_what_takes_long(tmp_path):
    """Before it is ready, a cancel is answered at once; afterwards nothing could stop an import."""
    code = """
import sys
from locara_sidecar.engine.torch_engine import runtime as torch_runtime
runtime = torch_runtime.create(sys.argv[1])
before = set(sys.modules)
from support.runtimes import make_job, run_job
assert run_job(runtime, make_job(steps=1)).images
print(len(before), len(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    paths = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(TESTS)])
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    before, after = (int(count) for count in done.stdout.split())
    assert before > 1000
    assert after < before / 10  # the family's own modules, and those of the test
