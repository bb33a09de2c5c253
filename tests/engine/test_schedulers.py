"""The names of schedulers mean what the contract says."""

from pathlib import Path

from locara_sidecar.engine.folder import schedulers


def test_the_schedulers_of_the_contract_are_those_of_the_engines():
    contract = (Path(__file__).parents[2] / "protocol" / "README.md").read_text()
    rows = [line for line in contract.splitlines() if "Scheduler |" in line and line.startswith("| `")]
    names = [row.split("|")[1].replace("`", "").replace(" ", "").split(",") for row in rows]
    told = {name: row.split("|") for row, several in zip(rows, names, strict=True) for name in several}
    assert set(told) == set(schedulers.SCALED_NOISE)
    for name, (_, _, class_name, says, *_) in told.items():
        named = schedulers.SCALED_NOISE[name]
        assert class_name.strip() == named.class_name
        assert ("timesteps spaced from the last one" in says) == (named.changes.get("timestep_spacing") == "trailing")
        assert ("Karras" in says) >= named.changes.get("use_karras_sigmas", False)
