"""The verdict for machines as people have them, and leases between daemons."""

import subprocess
import sys

import msgspec
import pytest

from locara_sidecar.engine import plan as plans
from locara_sidecar.engine.machine import GIB, Machine
from locara_sidecar.models import catalogue, fit
from locara_sidecar.models.lease import Leases

KNOWN = catalogue.load()


def machine(kind, total, free=None, reserved=0):
    available = int((free or total * 0.8) * GIB)
    return Machine(kind=kind, total=total * GIB, available=available, reserved=reserved)


def fits(model, where, engine="mlx"):
    return {row.quantization: row.fit for row in fit.table(KNOWN.get(model), where, [engine])}


@pytest.mark.parametrize("gib", [8, 16, 24, 32, 64])
@pytest.mark.parametrize("entry", list(KNOWN), ids=lambda entry: entry.id)
def test_what_is_recommended_is_what_a_job_would_do(entry, gib):
    where = machine("unified", gib)
    best = fit.recommend(fit.table(entry, where, ["mlx"]))
    plan = plans.choose(entry.components, fit.ask_of(entry, where), where)
    assert (best and best.quantization) == (plan and plan.quantization)
    if plan is not None:
        assert (best.peak, best.weights) == (plan.peak, plan.weights)
        assert fit.promise(entry, where) == plan.peak


def test_what_only_lacks_room_just_now_is_tight():
    assert fits("sd3.5-medium", machine("unified", 24, 20)) == {"none": "fits", "8bit": "fits", "4bit": "fits"}
    assert fits("sd3.5-medium", machine("unified", 24, 5))["8bit"] == "tight"
    assert fits("sd3.5-large", machine("unified", 8))["4bit"] == "no"


def test_another_daemons_engine_is_taken_off():
    busy = machine("unified", 24, 20, reserved=9 * GIB)
    assert fits("sd3.5-medium", busy) == {"none": "tight", "8bit": "tight", "4bit": "fits"}


def test_both_engines_have_all_bits_and_a_model_of_unknown_size_has_no_verdict():
    rows = fit.table(KNOWN.get("sd3.5-medium"), machine("ram", 64), ["torch", "mlx"])
    assert [(row.engine, row.quantization) for row in rows] == [
        (engine, quantization) for engine in ("torch", "mlx") for quantization in ("none", "8bit", "4bit")
    ]
    unknown = msgspec.structs.replace(KNOWN.get("sd3.5-medium"), components=[])
    assert fit.table(unknown, machine("ram", 64), ["torch"]) == []


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
        assert mine.reserved() == 12345
        other.kill()
        other.wait()
    assert mine.others() == []
    assert len(list((tmp_path / "leases").iterdir())) == 1, "the dead one's file is gone"
    mine.release()
    assert list((tmp_path / "leases").iterdir()) == []
