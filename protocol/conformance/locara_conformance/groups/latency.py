"""Latency under load. The times are only reported; a check fails only if an answer never comes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.lab import drawing

if TYPE_CHECKING:
    from locara_conformance.lab import Lab


@check("latency.ping", "WIRE-7")
def _ping(lab: Lab) -> str:
    peer = lab.session()
    calls = [peer.start("image.generate", drawing("fake:slow=10 a lake", steps=40), stream=True) for _ in range(8)]
    calls[0].until("denoising", timeout=20)
    took: list[float] = []
    for _ in range(200):
        began = time.monotonic()
        peer.call("ping")
        took.append((time.monotonic() - began) * 1000)
    for call in calls:
        call.cancel()
    for call in calls:
        call.answer(20)
    return f"200 pings beside eight jobs: median {statistics.median(took):.1f} ms, longest {max(took):.0f} ms"


@check("latency.cancel", "CANCEL-2")
def _cancel(lab: Lab) -> str:
    peer = lab.shared()
    took: list[float] = []
    for _ in range(5):
        call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
        call.until("denoising", timeout=20)
        began = time.monotonic()
        call.cancel()
        call.error("RequestCancelled")
        took.append((time.monotonic() - began) * 1000)
    return f"five cancels in the middle of a step: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms"
