"""Which files belong to an installed model, as the engine's confinement must know them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def model_files(folder: Path) -> list[str]:
    """What must be readable to load a model: its folder, and the files that links in it lead to.

    A hub's own cache is made of such links; leave to read the folder alone would not cover what they point at.
    """
    real = os.path.realpath(folder)
    paths = [real]
    for root, folders, files in os.walk(real):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            if os.path.islink(path) and not (target := os.path.realpath(path)).startswith(f"{real}{os.sep}"):
                paths.append(target)
    return list(dict.fromkeys(paths))
