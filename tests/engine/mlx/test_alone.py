"""The MLX engine draws without torch, diffusers and transformers: importing one of them would fail."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.mlx

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers", "accelerate"):
            raise ImportError(f"{name} was imported", name=name)

sys.meta_path.insert(0, Absent())
from support.runtimes import make_job, make_runtime, run_job
from locara_sidecar.engine.runtime import StepEvent

runtime = make_runtime("mlx", None)
seen = []

def look(event):
    if isinstance(event, StepEvent):
        seen.append(runtime.preview(event.x0, "linear", 64))

result = run_job(runtime, make_job(mode="linear", tiling="on"), on_event=look)
assert len(seen) == 3 and all(seen), seen
assert result.images[0].size == (64, 64)
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "diffusers", "transformers"}), "mlx" in loaded)
"""


@pytest.mark.slow
def test_a_whole_job_imports_neither_torch_nor_diffusers_nor_transformers():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "[] True"


@pytest.mark.slow
def test_control_the_program_notices_an_import():
    program = PROGRAM.replace("runtime = make", "import transformers\nruntime = make")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment(), check=False
    )
    assert done.returncode == 1
    assert "transformers was imported" in done.stderr


def environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
