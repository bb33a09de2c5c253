"""Which package may import which: a wrong import of each kind is noticed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__", "*.safetensors", "tokenizer*", "schema")
    shutil.copytree(ROOT / "sidecar" / "locara_sidecar", folder / "locara_sidecar", ignore=skipped)
    shutil.copytree(ROOT / "protocol" / "locara_protocol", folder / "locara_protocol", ignore=skipped)
    harness = ROOT / "protocol" / "conformance" / "locara_conformance"
    shutil.copytree(harness, folder / "locara_conformance", ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [*command, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout


def test_the_tree_keeps_its_contracts(copy):
    status, told = lint(copy)
    assert status == 0, told


@pytest.mark.parametrize(
    ("file", "wrong", "contract"),
    [
        ("locara_protocol/errors.py", "locara_sidecar.ipc.frames", "What needs what"),
        ("locara_conformance/lab.py", "locara_sidecar.ipc.frames", "The harness"),
        ("ipc/frames.py", "locara_conformance.lab", "The harness"),
        ("ipc/frames.py", "locara_sidecar.machine.plan", "What needs what"),
        ("machine/plan.py", "locara_sidecar.models.catalogue", "What needs what"),
        ("weights/weight_files.py", "locara_sidecar.capability.files.names", "What needs what"),
        ("models/cache/store.py", "locara_sidecar.engine.runtime", "What needs what"),
        ("engine/job.py", "locara_sidecar.models.catalogue", "What needs what"),
        ("models/cache/store.py", "locara_sidecar.daemon.system", "What needs what"),
        ("daemon/serve.py", "locara_sidecar.cli.output.console", "What needs what"),
        ("daemon/images/saving.py", "locara_sidecar.engine.images", "Only the engine's own process"),
        ("cli/commands/prepare.py", "locara_sidecar.engine.worker", "Only the engine's own process"),
        ("engine/job.py", "locara_sidecar.capability.policy", "The engine knows nothing of permissions"),
        ("daemon/wire/server.py", "locara_sidecar.daemon.jobs.job_runner", "The daemon"),
        ("daemon/images/resolve.py", "locara_sidecar.daemon.model_methods.preparing", "The daemon"),
        ("engine/torch_engine/tensors/weights.py", "locara_sidecar.engine.mlx_engine.tensors.weights", "The engine"),
        ("engine/folder/model_folder.py", "locara_sidecar.engine.drawing.family", "The engine"),
        ("models/cache/disk.py", "locara_sidecar.models.catalogue", "Models"),
        ("models/imports/importing.py", "locara_sidecar.models.downloads.hub", "Models"),
        ("engine/mlx_engine/autoencoders/vae.py", "locara_sidecar.engine.mlx_engine.families.sdxl", "The MLX engine"),
        ("engine/torch_engine/denoising/hooks.py", "locara_sidecar.engine.torch_engine.families.sd3", "The torch"),
        ("cli/output/tables.py", "locara_sidecar.cli.commands.draw", "The command line"),
        ("capability/files/names.py", "locara_sidecar.capability.files.confined", "No circles"),
    ],
)
def test_a_wrong_import_is_noticed(copy, file, wrong, contract):
    path = copy / file
    if not path.exists():
        path = copy / "locara_sidecar" / file
    before = path.read_text()
    path.write_text(f"{before}\n\ndef planted():\n    import {wrong}\n")
    try:
        status, told = lint(copy)
    finally:
        path.write_text(before)
    assert status == 1
    broken = told.partition("Broken contracts")[2]
    assert contract in broken, told
