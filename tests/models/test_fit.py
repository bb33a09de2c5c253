"""The verdict for machines as people have them, and leases between daemons."""

import subprocess
import sys

import pytest

from locara_sidecar.models import catalogue, fit
from locara_sidecar.models.catalogue import Need
from locara_sidecar.models.lease import Leases

GIB = fit.GIB
KNOWN = catalogue.load()


def machine(kind, total, free=None):
    return fit.Machine(kind=kind, total=total * GIB, available=int((free or total * 0.8) * GIB))


MACS = {
    8: {"sd3.5-medium": "4bit", "flux.1-schnell": None, "sd3.5-large": None},
    16: {"sd3.5-medium": "8bit", "flux.1-schnell": "4bit", "sd3.5-large": "4bit"},
    24: {"sd3.5-medium": "none", "flux.1-schnell": "4bit", "sd3.5-large": "8bit"},
    32: {"sd3.5-medium": "none", "flux.1-schnell": "8bit", "sd3.5-large": "none"},
    64: {"sd3.5-medium": "none", "flux.1-schnell": "none", "sd3.5-large": "none"},
}
GPUS = {
    8: {"sd3.5-medium": "4bit", "flux.1-schnell": None},
    12: {"sd3.5-medium": "8bit", "flux.1-schnell": "4bit"},
    16: {"sd3.5-medium": "none", "flux.1-schnell": "4bit"},
    24: {"sd3.5-medium": "none", "flux.1-schnell": "8bit"},
}


@pytest.mark.parametrize(
    ("kind", "gib", "model", "expected"),
    [("unified", gib, *row) for gib, rows in MACS.items() for row in rows.items()]
    + [("gpu", gib, *row) for gib, rows in GPUS.items() for row in rows.items()],
)
def test_the_best_that_fits_is_recommended(kind, gib, model, expected):
    free = gib * 0.97 if kind == "gpu" else gib * 0.8
    best = fit.recommend(fit.table(KNOWN.get(model).memory, machine(kind, gib, free), ["mlx"]))
    assert (None if best is None else best.quantization) == expected


def test_what_only_lacks_room_just_now_is_tight():
    need = Need(weights=8 * GIB, peak=10 * GIB)
    assert fit.assess(need, machine("unified", 24, 20)) == "fits"
    assert fit.assess(need, machine("unified", 24, 5)) == "tight"
    assert fit.assess(need, machine("unified", 8)) == "no"


def test_another_daemons_engine_is_taken_off():
    need = Need(weights=8 * GIB, peak=10 * GIB)
    busy = fit.Machine(kind="unified", total=24 * GIB, available=20 * GIB, reserved=8 * GIB)
    assert fit.assess(need, busy) == "tight"


def test_an_engine_is_only_shown_with_what_it_can_load():
    rows = fit.table(KNOWN.get("sd3.5-medium").memory, machine("ram", 64), ["torch"])
    assert [row.quantization for row in rows] == ["none"]


def test_a_lease_is_seen_by_others_and_ends_with_its_process(tmp_path):
    script = (
        "import sys; from pathlib import Path; from locara_sidecar.models.lease import Leases;"
        "Leases(Path(sys.argv[1])).hold('big', 12345) or print('held', flush=True); sys.stdin.read()"
    )
    script = script.replace("Leases(Path(sys.argv[1])).hold", "own = Leases(Path(sys.argv[1])); own.hold")
    mine = Leases(tmp_path)
    mine.hold("mine", 1)
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert [(promise.model, promise.bytes) for promise in mine.others()] == [("big", 12345)]
        other.kill()
        other.wait()
    assert mine.others() == []
    assert len(list((tmp_path / "leases").iterdir())) == 1, "the dead one's file is gone"
    mine.release()
    assert list((tmp_path / "leases").iterdir()) == []
