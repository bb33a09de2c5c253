"""Keep Python's cyclic garbage collector away from large libraries.

torch, transformers and diffusers create half a million objects that live until the process ends. While they are being
created the collector scans them again and again, which takes a sixth of their import time. After that, each full
collection takes a third of a second, and one happens whenever memory is released.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def importing() -> Generator[None]:
    """Suspend garbage collection during imports, then exempt all objects that exist from later collections.

    If nothing was imported, nothing changes. Can be nested.

    Do not load weights in this context: those in a reference cycle would never be freed.
    """
    searching, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if searching:
            if len(sys.modules) > modules:
                gc.freeze()
            gc.enable()
