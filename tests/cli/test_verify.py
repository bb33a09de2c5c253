"""``doctor --verify`` checks the files of the folder that an app ships."""

import json
import shutil
import subprocess
import sys

import pytest

from locara_sidecar.cli.commands import verify_bundle
from locara_sidecar.cli.output.console import Console
from locara_sidecar.machine import bundle

FACTS = '{"command": ["locara-sidecar"], "commandWithoutShell": ["python/bin/python3"]}'


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "bundle"
    (root / "python" / "bin").mkdir(parents=True)
    for name in ("locara-sidecar", "python/bin/python3", "python/a.py", "python/ü b.py"):
        (root / name).write_text(name)
        (root / name).chmod(0o755)
    (root / bundle.FACTS).write_text(FACTS)
    bundle.write(root)
    return root


def told(folder, capsys):
    status = verify_bundle.run(Console(), json=False, root=folder)
    return status, capsys.readouterr().out.splitlines()


def test_a_folder_as_it_was_built_is_sound(folder, capsys):
    assert told(folder, capsys) == (0, [f"{folder}: 5 files, as built."])


def test_each_file_that_differs_is_named(folder, capsys):
    (folder / "python" / "a.py").write_text("import os")
    (folder / "python" / "ü b.py").unlink()
    (folder / "python" / "sitecustomize.py").write_text("evil")
    (folder / "python" / "linked").symlink_to("/etc")
    (folder / "locara-sidecar").chmod(0o644)
    status, lines = told(folder, capsys)
    assert status == 1
    assert lines == [
        "altered: python/a.py",
        "missing: python/ü b.py",
        "not in the list: python/linked",
        "not in the list: python/sitecustomize.py",
        "not executable: locara-sidecar",
        f"{folder}: 5 files, not as built; install the app again.",
    ]


def test_a_link_to_the_same_bytes_is_another_file(folder, tmp_path):
    (folder / "python" / "a.py").rename(tmp_path / "elsewhere.py")
    (folder / "python" / "a.py").symlink_to(tmp_path / "elsewhere.py")
    assert bundle.verify(folder).altered == ["python/a.py"]


def test_an_altered_list_is_told(folder, capsys):
    lines = (folder / bundle.SUMS).read_text()
    (folder / bundle.SUMS).write_text(f"{lines}nonsense\n")
    assert verify_bundle.run(Console(), json=False, root=folder) == 1
    assert "SHA256SUMS has a line of another form: 'nonsense'" in capsys.readouterr().err


def test_the_facts_may_be_damaged_and_that_is_told_as_of_any_file(folder):
    (folder / bundle.FACTS).write_text("[]")
    assert bundle.verify(folder).altered == [bundle.FACTS]


def test_json_names_them_all(folder, capsys):
    (folder / "python" / "a.py").write_text("x")
    assert verify_bundle.run(Console(), json=True, root=folder) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["altered"], found["files"]) == (False, ["python/a.py"], 5)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="macOS has it from 15 on")
def test_sha256sum_reads_the_list(folder):
    done = subprocess.run(["sha256sum", "--check", "--quiet", bundle.SUMS], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_installation_of_another_kind_has_no_list():
    words = [sys.executable, "-m", "locara_sidecar", "doctor", "--verify"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "this is not the folder that an app ships" in done.stderr
