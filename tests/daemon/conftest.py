"""What the tests of the daemon share."""

import pytest

from support.edit_calls import KONTEXT, MEDIUM, MODALITIES, mask, png
from support.host import Hosts, manifest


@pytest.fixture(scope="module")
def _kept(tmp_path_factory):
    """One daemon for all the tests of a module that :func:`kept` is for, started when the first of them runs."""
    hosts = Hosts(tmp_path_factory.mktemp("kept"))
    host = hosts.spawn()
    host.initialize(
        manifest=manifest("pocket", MEDIUM, KONTEXT, modalities=MODALITIES),
        grants={"user-folder": str(host.folder)},
    )
    yield host
    hosts.close()


@pytest.fixture
def kept(_kept):
    """A daemon that tests use in turn, with an empty folder: for calls that are refused and leave nothing."""
    for file in _kept.folder.iterdir():
        file.unlink()
    yield _kept
    assert not _kept.violations


@pytest.fixture
def editor(hosts):
    """A session that may edit with some models, in a folder that holds ``in.png`` and ``mask.png``."""

    def start(*flags, models=(MEDIUM, KONTEXT), modalities=MODALITIES, fs=None, grants=None, env=None):
        host = hosts.spawn(*flags, env=env)
        (host.folder / "in.png").write_bytes(png())
        (host.folder / "mask.png").write_bytes(mask())
        app = manifest(*models, modalities=modalities, fs=fs)
        host.initialize(manifest=app, grants={"user-folder": str(host.folder)} if grants is None else grants)
        return host

    return start
