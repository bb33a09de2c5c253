"""How the check of the extras judges uv's output. The check itself asks the package index: ``make resolves``."""

from wheels import resolves


def test_mlx_must_be_taken_on_apple_silicon_and_not_on_intel():
    silicon, intel = resolves.CASES
    assert resolves.verdict(silicon, ["mlx==0.32.4", "mlx-metal==0.32.4"])
    assert not resolves.verdict(silicon, ["numpy==2.4.0"])
    assert resolves.verdict(intel, ["numpy==2.4.0"])
    assert not resolves.verdict(intel, ["mlx==0.32.4"])


def test_without_an_index_nothing_is_said_and_a_conflict_is_no_such_thing():
    assert resolves.is_unreachable("error: Failed to fetch: `https://index/simple/mlx/`")
    assert not resolves.is_unreachable("error: No solution found when resolving dependencies")


def test_the_extra_names_mlx_for_apple_silicon_alone():
    import tomllib

    extras = tomllib.loads((resolves.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (mac,) = (line for line in extras["mlx"] if "darwin" in line)
    assert "platform_machine == 'arm64'" in mac
    assert all(">=0.32" in line for line in extras["mlx"] if line.startswith("mlx"))
