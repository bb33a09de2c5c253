"""Which chips' GPUs have no bfloat16: with the strings that Macs and other machines report."""

import sys

import pytest

from locara_sidecar.machine import chips

WITHOUT = [
    ("Apple M1", "applegpu_g13g"),
    ("Apple M1 Pro", "applegpu_g13s"),
    ("Apple M1 Max", "applegpu_g13s"),
    ("Apple M1 Ultra", "applegpu_g13d"),
    ("Apple M2", "applegpu_g14g"),
    ("Apple M2 Pro", "applegpu_g14s"),
    ("Apple M2 Max", "applegpu_g14s"),
    ("Apple M2 Ultra", "applegpu_g14d"),
]
WITH = [
    ("Apple M3", "applegpu_g15g"),
    ("Apple M3 Pro", "applegpu_g15g"),
    ("Apple M3 Max", "applegpu_g15s"),
    ("Apple M3 Ultra", "applegpu_g15d"),
    ("Apple M4", "applegpu_g16g"),
    ("Apple M4 Pro", "applegpu_g16s"),
    ("Apple M4 Max", "applegpu_g16s"),
    ("Apple M5", "applegpu_g17g"),
    ("Apple M5 Max", "applegpu_g17s"),
]
OTHERS = [
    ("NVIDIA H200", "sm_90"),
    ("NVIDIA GeForce RTX 2080 Ti", "sm_75"),
    ("Intel(R) Xeon(R) Processor", "x86_64"),
    ("Apple Paravirtual device", ""),
    ("Apple M10", ""),
    ("Apple M21 Pro", ""),
    ("", ""),
]


@pytest.mark.parametrize(("name", "architecture"), WITHOUT)
def test_m1_and_m2_have_no_bfloat16(name, architecture):
    assert chips.lacks_bfloat16(name, architecture)
    assert chips.lacks_bfloat16(name)
    assert chips.lacks_bfloat16("Apple Paravirtual device", architecture)


@pytest.mark.parametrize(("name", "architecture"), [*WITH, *OTHERS])
def test_later_chips_have_it_and_of_unknown_ones_nothing_is_assumed(name, architecture):
    assert not chips.lacks_bfloat16(name, architecture)
    assert not chips.lacks_bfloat16(name)


def test_the_gpu_counts_more_than_the_chips_name():
    assert not chips.lacks_bfloat16("Apple M1 (Virtual)", "applegpu_g16g")
    assert chips.lacks_bfloat16("Apple M4 (Virtual)", "applegpu_g13g")


class Mac:
    def __init__(self, **known):
        self.known = known

    def text(self, name):
        if name not in self.known:
            raise OSError(name)
        return self.known[name]


def test_the_chips_name_is_the_systems(monkeypatch):
    mac = Mac(**{"machdep.cpu.brand_string": "Apple M2 Pro"})
    assert chips.name(mac) == ("Apple M2 Pro" if sys.platform == "darwin" else "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert chips.name(mac) == "Apple M2 Pro"
    assert chips.name(Mac()) == ""
