"""Python's search for garbage, in a process with large libraries in it.

torch, transformers and diffusers are half a million objects, all of which stay to the end. Python looks at them again
and again while they come into being, a sixth of the time that importing them takes; and a third of a second at each
later search, which is each time that memory is given back.
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
    """No search while modules are imported in here, and none of what there is then in any later search; where nothing
    is imported, nothing is changed. May be nested.

    Weights must not be loaded in here: those that are part of a reference cycle would stay for ever.
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
