"""``serve --prefer-float16``: how it reaches the engine and the daemon's memory estimate of a job."""

import sys
from functools import partial

import pytest

from locara_protocol.client import Sidecar
from locara_sidecar.cli import arguments
from locara_sidecar.cli.commands import serve as command
from locara_sidecar.daemon import serve as serving
from locara_sidecar.daemon import system
from locara_sidecar.daemon.wire import stdio
from locara_sidecar.machine import chips, engine_choice
from locara_sidecar.machine import plan as plans
from locara_sidecar.models import catalogue, fit


@pytest.fixture
def started_with(monkeypatch, tmp_path):
    """Return a function from a command line to the settings that it starts the daemon with."""

    def start(*words):
        made = []
        monkeypatch.setattr(stdio, "claim", lambda: (0, 1))
        monkeypatch.setattr(serving, "serve", lambda settings, *_: made.append(settings))
        command.run(arguments.parser("serve").parse_args(["serve", "--cache-dir", str(tmp_path), *words]))
        return made[0]

    return start


@pytest.mark.parametrize(
    ("words", "engine", "settings"),
    [
        ((), "mlx", {}),
        (("--prefer-float16",), "mlx", {"prefer_float16": ""}),
        (("--prefer-float16",), "torch", {}),
        (("--prefer-float16",), "fake", {}),
        (("--prefer-float16", "--compile"), "mlx", {"prefer_float16": ""}),
        (("--prefer-float16", "--compile"), "torch", {"compile": ""}),
    ],
)
def test_the_engine_is_told_what_concerns_it(started_with, words, engine, settings):
    client = serving._make_client(started_with(*words), engine, list)
    assert client._supervisor._settings == settings


MACS = {"Apple M1": "float16", "Apple M2 Pro": "float16", "Apple M3": "bfloat16", "Apple M5 Max": "bfloat16"}


@pytest.fixture
def mac(monkeypatch, tmp_path):
    """Return a function that returns a Mac with that chip, as the daemon sees it for an engine."""

    def make(chip, engine="mlx", *, prefer_float16):
        monkeypatch.setattr(engine_choice, "on_apple_silicon", lambda: True)
        monkeypatch.setattr(chips, "name", lambda: chip)
        return system.machines(tmp_path, [engine], prefer_float16=prefer_float16)[engine]

    return make


@pytest.mark.parametrize("chip", MACS)
def test_the_daemon_knows_which_type_auto_is(mac, chip):
    assert mac(chip, prefer_float16=True).half == MACS[chip]
    assert mac(chip, prefer_float16=False).half == "bfloat16"
    assert mac(chip, "torch", prefer_float16=True).half == "bfloat16"


@pytest.mark.parametrize("entry", [entry for entry in catalogue.load() if entry.components], ids=lambda entry: entry.id)
def test_it_expects_an_autoencoder_to_compute_in_float32_then(mac, entry):
    """Every published one says that it leaves float16's range; pocket's does not."""
    usual, narrow = (
        fit.assess(entry, fit.ask_of(entry, mac("Apple M1", prefer_float16=on)), mac("Apple M1", prefer_float16=on))[1]
        for on in (False, True)
    )
    decoder = next(part for part in entry.components if part.role == "decoder")
    size = entry.defaults.width, entry.defaults.height
    bytes_of = partial(plans.coding_bytes, decoder, "decode", size, tiled=False)
    assert decoder.wide == (0 if entry.id == "pocket" else decoder.parameters)
    assert narrow.weights - usual.weights == 2 * decoder.wide
    if decoder.wide and not narrow.tiled and not usual.tiled:
        assert bytes_of(4) > 1.9 * bytes_of(2)


PRETENDING = """
import sys
from locara_sidecar.__main__ import main
from locara_sidecar.machine import chips, engine_choice
engine_choice.on_apple_silicon = lambda: True
chips.name = lambda: "Apple M1"
sys.exit(main())
"""
APP = {
    "schema": "locara/v1",
    "name": "studio",
    "publisher": "example",
    "version": "1.0.0",
    "modalities": ["text-to-image"],
    "capabilities": {"models": ["sdxl-lightning"]},
}


def test_models_list_tells_what_then_fits(tmp_path):
    """By a daemon that believes that it runs on an M1; its engine is not started."""
    weights = []
    for words in ((), ("--prefer-float16",)):
        command = [sys.executable, "-c", PRETENDING, "serve", "--engine", "mlx", "--cache-dir", str(tmp_path), *words]
        with Sidecar(command) as sidecar:
            sidecar.initialize(manifest=APP, grants={})
            (model,) = sidecar.call("models.list")["models"]
        weights.append(next(row["weights"] for row in model["fit"] if row["quantization"] == "none"))
    assert weights[1] - weights[0] == 2 * 83_653_863
