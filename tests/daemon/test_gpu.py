"""How the daemon learns a GPU's memory, from a simulated driver library."""

import ctypes

import pytest

from locara_sidecar.daemon import system
from locara_sidecar.machine import gpu

GIB = 1 << 30


class Driver:
    """NVML with two GPUs, of 24 and 12 GiB; ``broken`` is the call that fails."""

    def __init__(self, broken=""):
        self.broken = broken
        self.open = 0

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.broken:
                return 999
            return getattr(self, f"_{name.removeprefix('nvml')}")(*arguments)

        return call

    def _Init_v2(self):
        self.open += 1
        return 0

    def _Shutdown(self):
        self.open -= 1
        return 0

    def _DeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = index.value + 1
        return 0 if index.value < 2 else 2

    def _DeviceGetHandleByUUID(self, name, device):
        device._obj.value = 2
        return 0 if name == b"GPU-second" else 2

    def _DeviceGetMemoryInfo(self, device, found):
        total = {1: 24, 2: 12}[device.value] * GIB
        found._obj.total, found._obj.free = total, total - GIB
        return 0


@pytest.fixture
def driver(monkeypatch):
    """Install a driver; torch counts as built for CUDA."""
    made = []

    def install(broken="", visible=None, version="2.13.0"):
        made.append(Driver(broken))
        monkeypatch.setattr(ctypes, "CDLL", lambda name: made[-1])
        monkeypatch.setattr(gpu.metadata, "version", lambda _: version)
        gpu._torch_has_no_cuda.cache_clear()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    yield install
    gpu._torch_has_no_cuda.cache_clear()
    assert all(driver.open == 0 for driver in made)


@pytest.mark.parametrize(
    ("visible", "gib"), [(None, 24), ("0", 24), ("1,0", 12), ("GPU-second", 12), ("", None), ("7", None)]
)
def test_the_first_gpu_that_cuda_may_see_is_asked(driver, visible, gib):
    driver(visible=visible)
    assert gpu.memory() == (None if gib is None else (gib * GIB, (gib - 1) * GIB))


@pytest.mark.parametrize("broken", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_fails_is_no_gpu(driver, broken):
    driver(broken)
    assert gpu.memory() is None


def test_a_torch_for_processors_alone_uses_no_gpu(driver):
    driver(version="2.13.0+cpu")
    assert gpu.memory() is None


def test_torch_plans_with_the_gpu_and_mlx_with_the_machine(driver, tmp_path):
    driver()
    machine = system.machine(tmp_path, "torch")
    assert (machine.kind, machine.total, machine.available) == ("gpu", 24 * GIB, 23 * GIB)
    assert system.machine(tmp_path, "mlx").kind != "gpu"


def test_a_machine_without_a_driver_plans_with_its_own_memory(monkeypatch, tmp_path):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert system.machine(tmp_path, "torch").kind != "gpu"
