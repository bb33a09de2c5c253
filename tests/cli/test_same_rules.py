"""The daemon and the command line refuse what cannot be done with a model in the same words."""

import json
import os
import subprocess
import sys

import pytest

from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
from support.host import error_of
from support.model_store import entry_data, write_model


@pytest.mark.quick_cases("verify-gone", "strange-mlx")
@pytest.mark.parametrize(
    ("verb", "model", "engine"),
    [
        ("download", "nothing", "fake"),
        ("download", "gone", "fake"),
        ("import", "gone", "fake"),
        ("verify", "gone", "fake"),
        ("verify", "mine", "fake"),
        ("prepare", "gone", "mlx"),
        ("prepare", "gone", "torch"),
        ("prepare", "strange", "mlx"),
        ("prepare", "strange", "torch"),
        ("prepare", "pocket", "torch"),
        ("remove", "mine", "fake"),
    ],
)
def test_a_refusal_is_the_same_on_both_ways(hosts, tmp_path, verb, model, engine):
    """``gone``: the catalogue names a folder that does not exist; ``strange``: no engine runs its family."""
    (tmp_path / "catalogue").mkdir()
    write_model(tmp_path / "catalogue" / "folder")
    for name, changes in {
        "mine": {},
        "gone": {"source": {"path": "nowhere"}},
        "strange": {"source": {"path": "folder"}, "family": "another"},
    }.items():
        (tmp_path / "catalogue" / f"{name}.json").write_text(json.dumps(entry_data(name, **changes)))
    places = ("--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"))
    params = {"model": model}
    words = [verb, model]
    if verb == "import":
        params["from"] = str(tmp_path / "catalogue" / "folder")
        words.append(params["from"])
    if verb == "prepare":
        params["quantization"] = "4bit"
        words += ["--quantization", "4bit", "--engine", engine]
    host = hosts.session(DOWNLOADS, MANAGEMENT, *places, models=(model,), engine=engine)
    refused = error_of(host.start(f"models.{verb}", params, stream=verb != "remove"))
    if verb == "verify":
        assert (refused.kind, refused.data["model"]) == ("ModelNotInstalled", model)
    command = [sys.executable, "-m", "locara_sidecar", "models", *words, *places]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"locara-sidecar: {refused.message}")
