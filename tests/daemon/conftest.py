"""What the tests of the daemon share."""

import pytest

from support.edit_calls import KONTEXT, MEDIUM, MODALITIES, mask, png
from support.host import manifest


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
