"""Our readers accept synthetic components as real ones, and the full-size measurement runs, here on a small one."""

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from fullsize import mlx as measurement
from fullsize import mlx_families, mlx_step, prepared
from locara_sidecar.engine.folder.model_folder import read_component
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
from locara_sidecar.models import catalogue
from support import strips, synthetic
from support.fixture_models import MODELS
from support.parity import build

pytestmark = pytest.mark.slow

SMALL = synthetic.PUBLISHED["flux.1-dev"]._replace(
    config=synthetic.FLUX
    | {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 64, "num_attention_heads": 2}
    | {"axes_dims_rope": [16, 24, 24], "joint_attention_dim": 64}
)


def test_published_sizes_are_those_that_are_known():
    billions = {name: synthetic.count(published) / 1e9 for name, published in synthetic.PUBLISHED.items()}
    # the table of positions counts, too: 0.2 and 0.1 of SD3.5's
    known = {"flux.1-dev": 11.90, "sd3.5-medium": 2.47, "sd3.5-large": 8.15, "t5-xxl": 4.76}
    known |= {"sdxl-lightning": 2.57, "z-image-turbo": 6.15, "flux.2-klein-4b": 3.88, "qwen3-4b": 4.02}
    assert billions == pytest.approx(known, abs=0.01)


def test_a_synthetic_component_is_read_whole_and_its_weights_are_small_normal_numbers(tmp_path):
    written = synthetic.write(tmp_path / "transformer", SMALL, shard_bytes=300_000)
    component = read_component(tmp_path, "transformer", SMALL.class_name, SMALL.stem)
    assert len(component.files) > 3
    assert written == 2 * synthetic.count(SMALL)
    values = dict(tree_flatten(build(Flux, component).parameters()))
    weight = np.array(values["singles.0.proj_mlp.weight"].astype(mx.float32))
    assert abs(weight.std() - 0.02) < 0.001
    assert abs(weight.mean()) < 0.001


def test_a_component_is_prepared_in_one_process_and_read_again_in_another(tmp_path, monkeypatch):
    monkeypatch.setitem(synthetic.PUBLISHED, "flux.1-dev", SMALL)
    # in this process, because the published ones are patched only here
    monkeypatch.setattr(measurement, "in_a_process", in_this_process)
    synthetic.write(tmp_path / "component", SMALL)
    rows = measurement.measure(measurement.Case("flux.1-dev", 4, 24, 1000.0, 1000.0), tmp_path, tmp_path)
    assert [row.met for row in rows] == [True, True, None, True, None]
    assert not (tmp_path / "prepared").exists()
    assert all(row.value > 0 for row in rows)


def in_this_process(folder, name, bits, mac, into=None):
    return measurement.child(Path(folder), name, int(bits), int(mac), None if into is None else Path(into))


@pytest.fixture(autouse=True)
def _limits_as_before():
    memory, cache = mx.get_memory_limit(), mx.set_cache_limit(0)
    mx.set_cache_limit(cache)
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


@pytest.mark.parametrize("case", [case for cases in measurement.CASES.values() for case in cases if case.mac])
def test_every_case_has_a_plan_for_its_mac_that_fits_it(case):
    rows = measurement.predicted(case)
    assert [row.met for row in rows] == [True, True]
    assert rows[1].value <= rows[0].value
    weights = synthetic.count(synthetic.PUBLISHED[case.model]) * case.bits / 8 / measurement.GB
    assert weights < rows[1].value
    assert "whole" in rows[1].note


def test_flux_can_be_drawn_within_12_gb():
    (case,) = measurement.CASES["flux"]
    assert measurement.predicted(case)[1].value < 12


def test_a_whole_model_is_loaded_prepared_and_loaded_again_through_the_daemon(tmp_path, capsys):
    shutil.copytree(MODELS / "tiny-flux", tmp_path / "tiny-flux")
    entry = json.loads((MODELS / "tiny-flux.json").read_text())
    (tmp_path / "tiny-flux.json").write_text(json.dumps(entry | {"id": "tiny-flux-synthetic"}))
    prepared.as_hub_cache(tmp_path, "tiny-flux")
    prepared.measure(tmp_path, "tiny-flux", "4bit", "bfloat16")  # at this size it does not matter which is quicker
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["bench"]
    assert len(rows) == 8
    assert all(row["value"] > 0 for row in rows)
    installed = next((tmp_path / "cache" / "models").iterdir())
    assert (installed / "vae" / "config.json").stat().st_nlink > 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", mlx_families.DENOISERS)
def test_a_step_of_every_denoiser_is_timed(model, precision):
    """As on a Mac, but with few and narrow layers. That no numbers are infinite is checked inside."""
    told = mlx_step.measure(model, 16, 64, tiny=True, precision=precision)
    assert (told["precision"], told["ownKernels"]) == (precision, [])  # on a processor
    assert 0 < told["stepSeconds"] < 60
    assert 0 < told["weightBytes"] <= told["peakBytes"]


def test_a_step_is_timed_with_the_kernels_that_an_engine_would_use(monkeypatch):
    asked = []
    for kernels in (mlx_step.group_statistics, mlx_step.rotated_heads):
        monkeypatch.setattr(kernels, "try_out", lambda device, use: asked.append(use) or True)
    told = mlx_step.measure("flux.1-dev", 16, 64, tiny=True, precision="float16")
    assert told["ownKernels"] == ["group norms", "queries and keys"]
    assert [getattr(use, "dtype", use) for use in asked] == [mlx_step.mx.float16] * 2


@pytest.mark.parametrize("engine", ["torch", "mlx"])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told as Linux counts it")
def test_what_an_autoencoder_of_the_true_size_holds_in_strips_is_measured(engine):
    case = strips.Case.read("decode:32:float32")
    found = strips.measured(case, engine)
    assert found["weights"] == 4 * 83_819_683
    assert 0 < found["taken"] < strips.planned(case)
    for wrong in ("decode:36:float32", "draw:64:float32", "decode:64:int8"):
        with pytest.raises(ValueError, match=wrong):
            strips.Case.read(wrong)


def test_a_model_that_does_not_fit_or_fails_leaves_the_others_their_times(monkeypatch, capsys):
    """FLUX.1's 24 GB on a Mac with 16, and a GPU fault: both once lost the times of all later models."""
    took = mlx_step.measure

    def measure(model, *how, **more):
        if model == "sd3.5-medium":
            raise RuntimeError("[METAL] Command buffer execution failed")
        return took(model, *how, **{**more, "tiny": model != "flux.1-dev"})

    monkeypatch.setattr(mlx_step, "measure", measure)
    monkeypatch.setattr(mlx_step, "room_of", lambda _: 16 << 30)
    monkeypatch.setattr(
        sys, "argv", ["mlx_step", "flux.1-dev:16", "sd3.5-medium:16", "z-image-turbo:16", "--size", "64"]
    )
    assert mlx_step.main() == 1
    big, broken, told = map(json.loads, capsys.readouterr().out.splitlines()[1:])
    assert big["leftOut"].startswith("its weights take 238")
    assert broken["error"].startswith("RuntimeError: [METAL]")
    assert told["stepSeconds"] > 0


def test_the_report_from_a_mac_times_every_family_of_the_catalogue():
    timed = {case.partition(":")[0] for case in mlx_step.CASES}
    families = {entry.id: entry.family for entry in catalogue.load()}
    kontext = {"flux-kontext"}  # it runs FLUX.1's transformer
    assert {families[model] for model in timed} == set(families.values()) - kontext
