"""Which package may import which: a wrong import of each kind is noticed."""

import os
import shutil
import subprocess
import sys
import tomllib
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
        ("locara_protocol/errors.py", "locara_sidecar.ipc.frames", "The protocol"),
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
        ("daemon/process/hostwatch.py", "locara_sidecar.daemon.session", "The daemon"),
        ("engine/ending.py", "locara_sidecar.engine.job", "The engine"),
        ("models/progress.py", "locara_sidecar.models.lease", "Models"),
        ("capability/policy.py", "locara_sidecar.capability.authorize", "Permissions"),
        ("machine/processes/child.py", "locara_sidecar.machine.machine", "The machine"),
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


def test_a_module_that_has_no_place_in_the_layers_is_noticed(copy):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {one["name"]: one["containers"] for one in contracts if "containers" in one}
    packages = [copy.joinpath(*package.split(".")) for containers in layered.values() for package in containers]
    planted = [package / "newcomer.py" for package in packages]
    for path in planted:
        path.write_text("")
    try:
        status, told = lint(copy)
    finally:
        for path in planted:
            path.unlink()
    assert status == 1
    broken = told.partition("Broken contracts")[2]
    assert [name for name in layered if name not in broken] == []
