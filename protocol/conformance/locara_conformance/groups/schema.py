"""Validates messages against the contract's JSON Schemas. The watch does it for all; these checks ensure there
are some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.lab import drawing, expect

if TYPE_CHECKING:
    from locara_conformance.lab import Lab


@check(
    "schema.results",
    "DOC-1",
    watched=True,
)
def _results(lab: Lab) -> None:
    peer = lab.shared()
    for method in ("ping", "system.info", "jobs.list", "models.list", "models.usage", "audit.capabilityLog"):
        peer.call(method)
    peer.call("models.get", {"model": "pocket"})
    call = peer.start("image.generate", drawing(), stream=True)
    call.result(30)
    peer.call("jobs.list")


@check("schema.notifications", "CHAN-2", watched=True)
def _notifications(lab: Lab) -> None:
    call = lab.shared().start("image.generate", drawing(), stream=True)
    call.result(30)
    expect(len(call.frames()) >= 3, "a call with a channel sent fewer than three frames")


@check(
    "schema.errors",
    "REQ-8",
    watched=True,
)
def _errors(lab: Lab) -> None:
    peer = lab.shared()
    peer.refused("MethodNotFound", "nobody.knows.this")
    peer.refused("InvalidParams", "image.generate", {"prompt": ""})
    peer.refused("CapabilityDenied", "models.get", {"model": "sd3.5-medium"})
    peer.refused("InvalidRequest", "initialize", lab.opening())
