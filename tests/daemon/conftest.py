"""What the tests of the daemon share."""

import shutil

import pytest

from support.edit_calls import KONTEXT, MEDIUM, MODALITIES, mask, png
from support.host import Hosts, manifest


def _emptied(host):
    for entry in host.folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return host


@pytest.fixture(scope="module")
def _kept(tmp_path_factory):
    hosts = Hosts(tmp_path_factory.mktemp("kept"))
    yield hosts.session()
    hosts.close()


@pytest.fixture
def kept(_kept):
    """A daemon that the tests of a module share, each with an empty folder: for calls that leave nothing behind
    in it except a loaded model."""
    yield _emptied(_kept)
    _kept.check()


@pytest.fixture(scope="module")
def _kept_editor(tmp_path_factory):
    hosts = Hosts(tmp_path_factory.mktemp("kept"))
    host = hosts.spawn()
    host.initialize(manifest=manifest(MEDIUM, KONTEXT, modalities=MODALITIES), grants={"user-folder": str(host.folder)})
    yield host
    hosts.close()


@pytest.fixture
def kept_editor(_kept_editor):
    """The same for a session that may edit, in a folder with ``in.png`` and ``mask.png``."""
    host = _emptied(_kept_editor)
    (host.folder / "in.png").write_bytes(png())
    (host.folder / "mask.png").write_bytes(mask())
    yield host
    host.check()


@pytest.fixture
def editor(hosts):
    """A session that may edit with some models, in a folder with ``in.png`` and ``mask.png``."""

    def start(*flags, models=(MEDIUM, KONTEXT), modalities=MODALITIES, fs=None, grants=None, env=None):
        host = hosts.spawn(*flags, env=env)
        (host.folder / "in.png").write_bytes(png())
        (host.folder / "mask.png").write_bytes(mask())
        app = manifest(*models, modalities=modalities, fs=fs)
        host.initialize(manifest=app, grants={"user-folder": str(host.folder)} if grants is None else grants)
        return host

    return start
