"""How ``make check-wheels`` judges what it finds. The check itself builds and installs wheels."""

import tomllib

from wheels import check


def test_a_wheel_without_the_marks_of_its_types_or_without_pocket_is_refused():
    assert check.lacking(list(check.NEEDED)) == []
    assert check.lacking(["locara_protocol/py.typed"]) == [
        "locara_sidecar/py.typed",
        "locara_sidecar/models/pocket/model_index.json",
    ]


def test_every_package_that_is_shipped_says_that_it_has_types():
    for package in ("sidecar/locara_sidecar", "protocol/locara_protocol"):
        assert (check.ROOT / package / "py.typed").exists()


def test_the_oldest_python_that_is_tried_is_the_oldest_that_is_allowed():
    project = tomllib.loads((check.ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={check.VERSIONS[0]}"


def test_a_python_that_is_not_here_is_not_made_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nexit 2\n")
    uv.chmod(0o755)
    assert check.interpreter("3.99") is None
    program = tmp_path / "versions" / "3.99.1" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch()
    assert check.interpreter("3.99") == str(program)
