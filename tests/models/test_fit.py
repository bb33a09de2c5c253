"""The verdict for the machines that people have, and leases between daemons."""

import subprocess
import sys

import msgspec
import pytest

from locara_sidecar.machine import plan as plans
from locara_sidecar.machine.machine import GIB, Machine
from locara_sidecar.models import catalogue, fit
from locara_sidecar.models.lease import Leases

KNOWN = catalogue.load()


def machine(kind, total, free=None, reserved=0):
    available = int((free or total * 0.8) * GIB)
    return Machine(kind=kind, total=total * GIB, available=available, reserved=reserved)


def fits(model, where, engine="mlx"):
    return {row.quantization: row.fit for row in fit.table(KNOWN.get(model), where, [engine])}


MACHINES = [*(("unified", gib) for gib in (8, 16, 24, 32, 64)), *(("gpu", gib) for gib in (8, 12, 16, 24))]
ORDER = (
    "sd3.5-medium",
    "sd3.5-large",
    "flux.1-schnell",
    "flux.1-dev",
    "flux.1-kontext-dev",
    "sdxl-lightning",
    "z-image-turbo",
    "pocket",
    "flux.2-klein-4b",
)

# (machine, GiB): for each model in order, does it fit in full, 8 and 4 bits: f(its), t(ight) or n(o)
VERDICTS = {
    ("unified", 8): "nnn nnn nnn nnn nnn nff nnt fff nnf",
    ("unified", 16): "nff ntf nnt nnt nnt fff nff fff fff",
    ("unified", 24): "fff nff ntf ntf ntf fff fff fff fff",
    ("unified", 32): "fff fff nff nff nff fff fff fff fff",
    ("unified", 64): "fff fff fff fff fff fff fff fff fff",
    ("gpu", 8): "ntf nnf nnn nnn nnn fff nnf fff nff",
    ("gpu", 12): "tff ntf nnf nnf nnf fff nff fff fff",
    ("gpu", 16): "fff nff ntf ntf ntf fff fff fff fff",
    ("gpu", 24): "fff fff nff nff nff fff fff fff fff",
}


def on(kind, gib):
    """Return the machine with little else running: a GPU is nearly empty, a Mac has four fifths free."""
    return machine(kind, gib, gib * 0.97 if kind == "gpu" else None)


@pytest.mark.parametrize(("kind", "gib"), MACHINES)
def test_every_model_on_every_machine(kind, gib):
    engine = "torch" if kind == "gpu" else "mlx"
    tables = {model: fit.table(KNOWN.get(model), on(kind, gib), [engine]) for model in ORDER}
    found = " ".join("".join(row.fit[0] for row in rows) for rows in tables.values())
    assert found == VERDICTS[kind, gib]
    for rows in tables.values():
        assert [row.quantization for row in rows] == ["none", "8bit", "4bit"]
        assert [row.weights for row in rows] == sorted((row.weights for row in rows), reverse=True)
        assert all(0 < row.available <= gib * GIB for row in rows)


def test_what_is_recommended_to_people_with_usual_machines():
    def recommended(model, kind, gib):
        best = fit.recommend(fit.table(KNOWN.get(model), on(kind, gib), ["mlx"]))
        return best and best.quantization

    macs = [[recommended(model, "unified", gib) for gib in (8, 16, 24, 32, 64)] for model in ORDER[:3]]
    assert macs == [
        [None, "8bit", "none", "none", "none"],
        [None, "4bit", "8bit", "none", "none"],
        [None, "4bit", "4bit", "8bit", "none"],
    ]
    z_image = [recommended("z-image-turbo", "unified", gib) for gib in (8, 16, 24, 32, 64)]
    assert z_image == ["4bit", "8bit", "none", "none", "none"]
    klein = [recommended("flux.2-klein-4b", "unified", gib) for gib in (8, 16, 24, 32, 64)]
    assert klein == ["4bit", "none", "none", "none", "none"]
    gpus = [[recommended(model, "gpu", gib) for gib in (8, 12, 16, 24)] for model in ORDER[:3]]
    assert gpus == [
        ["4bit", "8bit", "none", "none"],
        ["4bit", "4bit", "8bit", "none"],
        [None, "4bit", "4bit", "8bit"],
    ]


@pytest.mark.parametrize(("kind", "gib"), MACHINES)
@pytest.mark.parametrize("entry", list(KNOWN), ids=lambda entry: entry.id)
def test_what_is_recommended_is_what_a_job_would_do(entry, kind, gib):
    where = on(kind, gib)
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


def test_a_prepared_form_takes_less_at_the_height_and_only_where_it_is():
    entry, where = KNOWN.get("flux.1-schnell"), machine("unified", 16)
    before, after = (fit.table(entry, where, ["mlx", "torch"], forms) for forms in ((), {("mlx", "4bit")}))
    changed = [(row.engine, row.quantization) for row, then in zip(after, before, strict=True) if row != then]
    assert changed == [("mlx", "4bit")]
    rows = {row.engine: row for row in after if row.quantization == "4bit"}
    assert rows["torch"].peak - rows["mlx"].peak > GIB
    assert rows["torch"].weights == rows["mlx"].weights


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
