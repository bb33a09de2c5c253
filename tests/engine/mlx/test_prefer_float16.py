"""``serve --prefer-float16``: on an M1 or M2 ``auto`` means float16, and nothing changes anywhere else."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from locara_sidecar.engine.drawing.staged import StagedRuntime
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.runtime import MlxBackend

pytestmark = pytest.mark.mlx

ON, OFF = {"prefer_float16": ""}, {}
M1, M2 = ("metal", "Apple M1", "applegpu_g13g"), ("metal", "Apple M2 Max", "applegpu_g14s")
M3, M5 = ("metal", "Apple M3 Max", "applegpu_g15s"), ("metal", "Apple M5", "applegpu_g17g")
CUDA, CPU = ("cuda", "NVIDIA H200", "sm_90"), ("cpu", "Intel(R) Xeon(R) Processor", "x86_64")
NAMED_LIKE_ONE = ("cpu", "Apple M1", "applegpu_g13g")


@pytest.fixture
def on(monkeypatch):
    """Return a function that creates the backend on a simulated device."""

    def make(where, settings):
        name, title, architecture = where
        monkeypatch.setattr(device, "choose_device", lambda: name)
        monkeypatch.setattr(mx, "device_info", lambda: {"device_name": title, "architecture": architecture})
        return MlxBackend(settings)

    return make


@pytest.mark.parametrize("where", [M1, M2], ids=["M1", "M2"])
def test_on_an_m1_and_m2_auto_means_float16_if_that_was_set(on, where):
    assert on(where, ON).choose_precision("auto") == "float16"
    assert on(where, OFF).choose_precision("auto") == "bfloat16"


@pytest.mark.parametrize(
    ("where", "usual"),
    [(M3, "bfloat16"), (M5, "bfloat16"), (CUDA, "bfloat16"), (CPU, "float32"), (NAMED_LIKE_ONE, "float32")],
    ids=["M3", "M5", "CUDA", "CPU", "an M1's CPU"],
)
def test_elsewhere_it_changes_nothing(on, where, usual):
    for settings in (ON, OFF):
        backend = on(where, settings)
        assert backend.choose_precision("auto") == usual
        assert backend.note is None


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("where", [M1, M3, CPU], ids=["M1", "M3", "CPU"])
def test_what_a_call_asks_for_counts(on, where, asked):
    assert on(where, ON).choose_precision(asked) == asked


def test_the_user_is_told(on):
    assert "float16" in StagedRuntime(on(M1, ON)).note
    assert StagedRuntime(on(M1, OFF)).note is None


@pytest.mark.parametrize("settings", [ON, OFF], ids=["on", "off"])
def test_a_job_computes_in_the_type_that_it_reports(run, job_for, monkeypatch, settings):
    """On MLX's CPU, which pretends to be a device that is neither a CPU nor Metal."""
    monkeypatch.setattr(device, "choose_device", lambda: "cuda")
    monkeypatch.setattr(device, "lacks_bfloat16", lambda _: True)
    runtime = StagedRuntime(MlxBackend(settings))
    done = run(runtime, job_for("tiny-flux", steps=1, precision="auto")).summary
    assert done.settled.precision == ("float16" if settings else "bfloat16")
    family = runtime.opened.family
    types = {value.dtype for _, value in tree_flatten(family.module(family.denoiser).parameters())}
    assert types == {getattr(mx, done.settled.precision)}
