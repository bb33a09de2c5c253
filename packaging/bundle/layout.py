"""The places in the folder, and what must be the same in every build: times and permissions."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class Layout:
    """The places in a bundle. ``version`` is known once it contains an interpreter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "python"
        self.launcher = root / "locara-sidecar"
        self.licences = root / "LICENSES"

    @property
    def python(self) -> Path:
        """The interpreter's program."""
        if sys.platform == "win32":
            return self.home / "python.exe"
        (found,) = (path for path in (self.home / "bin").iterdir() if path.name.startswith("python3."))
        return found

    @property
    def library(self) -> Path:
        """The folder of the standard library."""
        return self.home / "Lib" if sys.platform == "win32" else self.home / "lib" / self.python.name

    @property
    def site(self) -> Path:
        """The folder of the packages."""
        return self.library / "site-packages"


def normalise(layout: Layout, epoch: int) -> None:
    """Set one time for everything, 755 for folders and programs, and 644 for everything else; remove empty folders.

    :raises RuntimeError: for a link: a tool that copies a folder into an app's resources may lose or follow it.
    """
    programs = {layout.launcher, layout.python}
    for folder, _, names in os.walk(layout.root, topdown=False):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink():
                raise RuntimeError(f"{path} is a link")
            path.chmod(0o755 if path in programs else 0o644)
            os.utime(path, (epoch, epoch))
        if not os.listdir(folder):
            os.rmdir(folder)
        else:
            os.chmod(folder, 0o755)
            os.utime(folder, (epoch, epoch))
