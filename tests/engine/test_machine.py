"""How much memory this machine has: its container's limit, and a Mac's working set."""

import sys

import pytest

from locara_sidecar.daemon import system
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine.machine import GIB, Machine
from support.plans import machine


def test_a_container_of_the_system_bounds_what_the_machine_has(monkeypatch):
    total, _ = machines.host_memory()
    monkeypatch.setattr(machines, "_container", lambda: (2 * GIB, GIB // 2))
    assert machines.host_memory() == (2 * GIB, GIB // 2)
    monkeypatch.setattr(machines, "_container", lambda: (total * 2, total * 2))
    assert machines.host_memory()[0] == total
    assert machines.host_memory()[1] < total


def group(folder, limit, used, cache):
    """A control group as the kernel shows it; ``used`` includes the page cache."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cache}\nfile {cache}\ninactive_file {cache}\nactive_file 0\n")


def test_the_tightest_of_the_control_groups_around_the_process_counts_and_cached_files_are_no_use(tmp_path):
    (tmp_path / "own").write_text("0::/user.slice/app.scope\n")
    mounted = tmp_path / "cgroup"
    mounted.mkdir()
    assert machines._container(tmp_path / "own", mounted) is None
    group(mounted / "user.slice/app.scope", "max", 2 * GIB, 0)
    assert machines._container(tmp_path / "own", mounted) is None
    group(mounted / "user.slice", 8 * GIB, 7 * GIB, 5 * GIB)
    assert machines._container(tmp_path / "own", mounted) == (8 * GIB, 6 * GIB)
    group(mounted / "user.slice/app.scope", 7 * GIB, 2 * GIB, GIB)
    assert machines._container(tmp_path / "own", mounted) == (7 * GIB, 6 * GIB)
    (mounted / "user.slice/memory.stat").write_text("nonsense\n")
    assert machines._container(tmp_path / "own", mounted) == (7 * GIB, 6 * GIB)
    assert machines._container(tmp_path / "none", mounted) is None


@pytest.mark.parametrize(
    ("gib", "megabytes"), [(16, 11453), (18, 12884), (24, 17179), (32, 22906), (36, 28991), (64, 51539)]
)
def test_the_usual_working_set_of_a_mac_is_the_one_that_metal_recommends(gib, megabytes):
    assert machines.capacity(machine("unified", gib)) // 1_000_000 == megabytes


def test_a_limit_that_somebody_has_set_is_the_one_that_counts(monkeypatch):
    class Mac:
        def __init__(self, megabytes):
            self.megabytes = megabytes

        def number(self, name):
            assert name == "iogpu.wired_limit_mb"
            if self.megabytes is None:
                raise OSError(name)
            return self.megabytes

    assert machines.wired_limit(Mac(12 << 10)) is None or sys.platform == "darwin"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machines.wired_limit(Mac(12 << 10)) == 12 * GIB
    assert machines.wired_limit(Mac(0)) is None, "it is the system's own choice"
    assert machines.wired_limit(Mac(None)) is None
    assert machines.capacity(Machine(kind="unified", total=16 * GIB, available=0, working_set=12 * GIB)) == 12 * GIB
    assert machines.capacity(Machine(kind="unified", total=16 * GIB, available=0, working_set=32 * GIB)) == 16 * GIB


@pytest.mark.parametrize(("metal", "counts"), [(11 * GIB, 11 * GIB), (None, 12 * GIB)])
def test_what_metal_says_counts_before_what_somebody_has_set_and_daemon_and_engine_ask_alike(
    monkeypatch, tmp_path, metal, counts
):
    monkeypatch.setattr(machines, "host_memory", lambda: (16 * GIB, 2 * GIB))
    monkeypatch.setattr(machines, "wired_limit", lambda: 12 * GIB)
    assert machines.of_engine(unified=True, reserved=0, working_set=metal).working_set == counts
    assert machines.of_engine(unified=False, reserved=0, working_set=metal).working_set is None
    monkeypatch.setattr(system, "wired_limit", lambda: 12 * GIB)
    monkeypatch.setattr(system, "host_memory", lambda: (16 * GIB, 2 * GIB))
    monkeypatch.setattr(system.engine_choice, "on_apple_silicon", lambda: True)
    told = system.machine(tmp_path, "mlx")
    assert (told.kind, machines.capacity(told)) == ("unified", 12 * GIB)
