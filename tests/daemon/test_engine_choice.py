"""``--engine auto`` selects MLX on Apple silicon and torch elsewhere, and says why."""

import importlib.util

import pytest

from locara_sidecar.machine import engine_choice


@pytest.fixture
def machine(monkeypatch):
    """Simulate a machine: whether it is a Mac with Apple silicon, and which engines are installed."""

    def play(apple, *installed):
        monkeypatch.setattr(engine_choice, "on_apple_silicon", lambda: apple)
        monkeypatch.setattr(engine_choice, "missing", lambda name: [] if name in installed else [name])

    return play


CHOICES = [
    (True, ("mlx", "torch"), "mlx"),
    (True, ("mlx",), "mlx"),
    (True, ("torch",), "torch"),
    (True, (), "mlx"),
    (False, ("mlx", "torch"), "torch"),
    (False, ("torch",), "torch"),
    (False, ("mlx",), "mlx"),
    (False, (), "torch"),
]


@pytest.mark.parametrize(("apple", "installed", "chosen"), CHOICES)
def test_auto_takes_the_machines_engine_if_it_is_there_and_else_the_other(machine, apple, installed, chosen):
    machine(apple, *installed)
    assert engine_choice.choose_engine("auto") == chosen
    told = {engine.name: engine for engine in engine_choice.engines(chosen, None)}
    assert {name for name in ("mlx", "torch") if told[name].available} == set(installed)
    assert {name for name in installed if "Chosen by auto" in told[name].reason} == {chosen} & set(installed)
    assert all(f"locara-sidecar[{name}]" in told[name].reason for name in {"mlx", "torch"} - set(installed))


@pytest.mark.parametrize("name", ["mlx", "torch", "fake"])
def test_a_name_is_taken_at_its_word(machine, name):
    machine(True)
    assert engine_choice.choose_engine(name) == name


def test_the_reason_tells_why_the_other_engine_stands_in(machine):
    machine(True, "torch")
    (torch,) = (engine for engine in engine_choice.engines("torch", "cpu") if engine.name == "torch")
    assert "mlx is not installed" in torch.reason
    assert torch.device == "cpu"


def test_what_the_running_engine_says_of_its_device_is_told_of_that_engine_alone(machine):
    machine(False, "mlx", "torch")
    note = "There is a GPU that torch cannot use."
    told = {engine.name: engine.reason for engine in engine_choice.engines("torch", "cpu", note)}
    assert note in told.pop("torch")
    assert not [name for name, reason in told.items() if note in reason]


@pytest.mark.parametrize(("platform", "machine", "apple"), [
    ("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "aarch64", False), ("linux", "arm64", False),
])  # fmt: skip
def test_apple_silicon_is_a_mac_with_an_arm_interpreter(monkeypatch, platform, machine, apple):
    monkeypatch.setattr(engine_choice.sys, "platform", platform)
    monkeypatch.setattr(engine_choice.os, "uname", lambda: type("Names", (), {"machine": machine})(), raising=False)
    assert engine_choice.on_apple_silicon() is apple


def test_what_is_missing_is_asked_of_the_import_system_and_not_imported(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: asked.append(name) or None)
    assert engine_choice.missing("mlx") == asked
    assert asked[0] == "mlx"
