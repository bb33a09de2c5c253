"""``--json`` prints one value on stdout, with the shape that the method's schema describes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from support.model_store import entry_data, write_model

RUN = [sys.executable, "-m", "locara_sidecar"]
SCHEMAS = Path(__file__).resolve().parents[2] / "protocol" / "schema" / "v1"


@pytest.fixture
def command(tmp_path):
    """Run a command in a Latin-1 locale, with a cache whose name is not Latin-1; return (status, stdout, stderr)."""
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(entry_data(displayName="狐")))
    env = {**os.environ, "LOCARA_CACHE_DIR": str(tmp_path / "キャッシュ"), "PYTHONIOENCODING": "latin-1"}

    def run(*words):
        catalogue = ["--catalogue", str(tmp_path / "catalogue")] if words[0] == "models" else []
        done = subprocess.run([*RUN, *words, *catalogue], env=env, capture_output=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


def value(status, told, errors):
    assert (status, errors) == (0, b"")
    assert told.isascii()
    return json.loads(told)


def check(found, method):
    schema = json.loads((SCHEMAS / f"{method}.result.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)


@pytest.mark.slow
def test_models_print_what_the_methods_answer(command, tmp_path):
    folder = str(write_model(tmp_path / "mine"))
    check(value(*command("models", "import", "mine", folder, "--json", "--engine", "fake")), "models.import")
    listed = value(*command("models", "list", "--json"))
    check(listed, "models.list")
    mine = next(model for model in listed["models"] if model["id"] == "mine")
    assert (mine["displayName"], mine["installed"]) == ("狐", True)
    got = value(*command("models", "get", "mine", "--json"))
    check(got, "models.get")
    assert got["path"] == mine["path"]
    assert (tmp_path / "キャッシュ") in Path(got["path"]).parents
    usage = value(*command("models", "usage", "--json"))
    check(usage, "models.usage")
    assert [entry["model"] for entry in usage["entries"]] == ["mine"]
    check(value(*command("models", "verify", "mine", "--json")), "models.verify")
    check(value(*command("models", "gc", "--dry-run", "--json")), "models.gc")
    check(value(*command("models", "remove", "mine", "--json")), "models.remove")


@pytest.mark.slow
def test_doctor_prints_what_system_info_answers_with_models_and_problems(command, tmp_path):
    status, told, errors = command("doctor", "--json")
    found = json.loads(told)
    assert errors == b""
    models, problems = found.pop("models"), found.pop("problems")
    check(found, "system.info")
    assert found["cacheRoot"] == str(tmp_path / "キャッシュ")
    assert all(set(model) == {"id", "installed"} for model in models)
    assert all(isinstance(each, str) for each in problems)
    assert status in (0, 1)


@pytest.mark.parametrize(
    "words", [("models", "get", "nothing", "--json"), ("models", "list", "--json", "--cache-dir", "{file}")]
)
def test_what_cannot_be_done_leaves_stdout_empty(command, tmp_path, words):
    (tmp_path / "file").touch()
    status, told, errors = command(*(word.format(file=tmp_path / "file") for word in words))
    assert (status, told) == (1, b"")
    assert errors.startswith(b"locara-sidecar: ")
