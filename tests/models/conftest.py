"""A store in a temporary folder and a hub on loopback."""

import pytest

from locara_sidecar.capability.system import System
from locara_sidecar.models import disk
from locara_sidecar.models.store import Store
from models.helpers import write_model
from support.hub import FakeHub


class _NoSync(System):
    """Fast: what these tests show does not depend on the disk."""

    def sync(self, fd):
        pass


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_SYSTEM", _NoSync())
    return Store(tmp_path / "cache")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serves ``org/mine``; huggingface_hub finds no token and no cache of the user's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    served = FakeHub()
    served.add("org/mine", write_model(tmp_path / "mine"))
    yield served
    served.close()
