"""Daemons that share a cache: what one's engine holds counts in the other's memory plan, and its model is not
collected.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from locara_sidecar.capability.authorize import MANAGEMENT
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.lease import Leases
from support.host import error_of, eventually

pytest.importorskip("mlx")
pytestmark = [pytest.mark.mlx, pytest.mark.timeout(120)]

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
MODEL = "tiny-sd3"


@pytest.fixture
def start(hosts, tmp_path):
    """Start a daemon on the shared cache, into which the model will be imported from its folder."""
    (tmp_path / "catalogue").mkdir()
    data = json.loads((FIXTURES / f"{MODEL}.json").read_text())
    # the real parts are not given there: the lease must say what is given here
    parts = [
        {"name": "transformer", "role": "denoiser", "parameters": 400_000_000, "width": 64},
        {"name": "vae", "role": "decoder", "parameters": 100_000, "width": 8},
    ]
    source = {"repository": f"org/{MODEL}", "files": ["*.json", "*.txt", "*.safetensors"]}
    (tmp_path / "catalogue" / f"{MODEL}.json").write_text(json.dumps({**data, "source": source, "components": parts}))

    def begin(engine):
        places = ("--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"))
        return hosts.session(MANAGEMENT, *places, models=(MODEL,), engine=engine)

    return begin


@pytest.mark.slow
def test_a_model_in_one_daemons_engine_is_in_the_others_plan_and_out_of_its_reach(start, tmp_path):
    one, two = start("mlx"), start("mlx")
    one.call("models.import", {"model": MODEL, "from": str(FIXTURES / MODEL)}, timeout=30)
    one.call("models.load", {"model": MODEL}, timeout=60)
    (promise,) = Leases(tmp_path / "cache").others()
    assert promise.model == MODEL
    assert promise.bytes > 800_000_000, "two bytes for each of the parameters that the catalogue tells"

    error = error_of(two.start("models.remove", {"model": MODEL}))
    assert (error.kind, error.data["errno"]) == ("StorageError", "EBUSY")
    assert two.call("models.gc", {"maxBytes": 0}, timeout=10)["removed"] == []
    assert two.call("models.usage", timeout=10)["entries"][0]["inUse"] is True
    assert one.generate(steps=1)["images"]

    one.call("models.unload", timeout=20)
    assert eventually(lambda: Leases(tmp_path / "cache").others() == [])
    assert eventually(lambda: not two.call("models.usage", timeout=10)["entries"][0]["inUse"])
    removed = two.call("models.gc", {"maxBytes": 0}, timeout=10)["removed"]
    assert [model["model"] for model in removed] == [MODEL]
    assert Store(tmp_path / "cache").entries() == []


@pytest.mark.slow
def test_what_others_hold_is_missing_from_the_plan_until_they_are_gone(start, tmp_path):
    host = start("mlx")
    host.call("models.import", {"model": MODEL, "from": str(FIXTURES / MODEL)}, timeout=30)
    mine = Leases(tmp_path / "cache")
    mine.hold("everything", 1 << 50)
    (shown,) = host.call("models.list", timeout=10)["models"]
    assert {row["available"] for row in shown["fit"]} == {0}
    assert {row["fit"] for row in shown["fit"]} == {"tight"}, "it would fit this machine alone"
    error = error_of(host.start("image.generate", {"prompt": "a lake", "options": {"steps": 1}}))
    assert (error.kind, error.data["available"]) == ("InsufficientMemory", 0)
    assert "ending other applications' image engines" in error.data["suggestions"]
    mine.release()
    assert host.generate(steps=1)["images"]
    (shown,) = host.call("models.list", timeout=10)["models"]
    assert shown["recommended"]["quantization"] == "none"


@pytest.mark.slow
def test_a_killed_daemons_promise_ends_with_it(start, tmp_path):
    host = start("mlx")
    host.call("models.import", {"model": MODEL, "from": str(FIXTURES / MODEL)}, timeout=30)
    host.call("models.load", {"model": MODEL}, timeout=60)
    (promise,) = Leases(tmp_path / "cache").others()
    os.kill(promise.pid, signal.SIGKILL)
    assert eventually(lambda: Leases(tmp_path / "cache").others() == [])
    assert eventually(
        lambda: not any(Store(tmp_path / "cache").in_use(e.key) for e in Store(tmp_path / "cache").entries())
    )
