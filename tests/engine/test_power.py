"""What the machine reports about power and heat, on a simulated Mac, and that the host is told."""

import sys
from types import SimpleNamespace

import msgspec
import pytest

from locara_sidecar.daemon import system
from locara_sidecar.machine import power
from locara_sidecar.machine.macos import darwin

ENGINE = system.EngineFacts(None, None, None, None)


def playing(monkeypatch, answer):
    def call(_self):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(darwin.Darwin, "power", call)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((False, 0), {"lowPower": False, "thermalState": "nominal"}),
        ((True, 1), {"lowPower": True, "thermalState": "fair"}),
        ((False, 2), {"lowPower": False, "thermalState": "serious"}),
        ((True, 3), {"lowPower": True, "thermalState": "critical"}),
        ((True, 4), {"lowPower": True}),
        ((False, -1), {"lowPower": False}),
        (OSError("before macOS 12"), None),
    ],
)
def test_system_info_tells_what_the_system_says_and_no_more(monkeypatch, tmp_path, answer, told):
    monkeypatch.setattr(system, "memory", lambda _pid: system.MemoryInfo(total=1, available=1, daemon=1, engine=None))
    playing(monkeypatch, answer)
    info = msgspec.to_builtins(system.info("fake", tmp_path, ENGINE))
    assert info.get("power") == told


@pytest.mark.skipif(sys.platform == "darwin", reason="here it is asked")
def test_elsewhere_nothing_is_asked_and_nothing_told(tmp_path):
    mac = SimpleNamespace(power=lambda: pytest.fail("asked"))
    assert power.power(mac) is None
    with pytest.raises(OSError, match="macOS only"):
        darwin.Darwin().power()
    assert "power" not in msgspec.to_builtins(system.info("fake", tmp_path, ENGINE))
