"""A store in a temporary folder and a hub on loopback."""

import functools
import ssl
import subprocess
import sys

import pytest

from locara_sidecar.capability.files.system import System
from locara_sidecar.models.cache import disk
from locara_sidecar.models.cache.store import Store
from support.hub import FakeHub
from support.model_store import write_model

_default_context = functools.cache(ssl.create_default_context)


class _NoSync(System):
    """Skips syncing, for speed: what these tests show does not depend on the disk."""

    def sync(self, fd):
        pass


@pytest.fixture(autouse=True)
def _certificates_are_read_once(monkeypatch):
    """Reading them takes longer than the rest of a small download, and nothing here uses https."""
    monkeypatch.setattr(ssl, "create_default_context", _default_context)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_SYSTEM", _NoSync())
    return Store(tmp_path / "cache")


@pytest.fixture
def ended():
    """Return the name of a process that has ended."""
    words = [sys.executable, "-c", "from locara_sidecar.models.cache import owner; print(owner.name())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serves ``org/mine``; huggingface_hub finds no token and no cache of the user's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    served = FakeHub()
    served.add("org/mine", write_model(tmp_path / "mine"))
    yield served
    served.close()
