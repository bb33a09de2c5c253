"""The base class of records that stay inside this process and are never encoded."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True):
    """Like a frozen dataclass, but created in a tenth of the time: the daemon defines twenty of them at startup."""
