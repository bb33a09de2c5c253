"""The typed messages of the wire: params, results and notifications.

This module has what all messages share, the session's own and the audit record; those of ``image.*`` are in
:mod:`locara_protocol.image_messages`, those of ``models.*`` in :mod:`locara_protocol.model_messages`.

Python names are snake_case, wire names camelCase. Parameters are strict (an unknown member is refused); results and
notifications may grow, and hosts ignore members that they do not know. Every optional parameter also accepts ``null``
for "absent", because Rust hosts send it; the daemon's resolver therefore fills in the defaults, and a result's
``parameters`` shows the resolved values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

U32_MAX = 2**32 - 1
MAX_AUDIT_ENTRIES = 1000

_U32 = (
    r"(0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}"
    r"|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])"
)
EngineName = Literal["auto", "mlx", "torch"]
"""The engines that draw with real models, and ``auto`` for the one that the daemon runs."""

_CHANNEL_WORDS = 'a channel: an integer from 0 to 4294967295, or the same as "__CHANNEL__:<integer>"'

ChannelId = (
    Annotated[int, Meta(ge=0, le=U32_MAX, description=_CHANNEL_WORDS)]
    # (?!\n) because Python's $ also matches before a trailing line break and ECMAScript's does not
    | Annotated[str, Meta(pattern=rf"^__CHANNEL__:{_U32}$(?!\n)", description=_CHANNEL_WORDS)]
)
"""A Tauri channel: the bare u32, or the string ``__CHANNEL__:<u32>`` that Tauri serializes it to."""


class Params(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of every parameter object: strict, but ``_meta`` is always allowed."""

    meta: Any = msgspec.field(default=None, name="_meta")


class Result(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Base of every result and notification object: members left UNSET are not sent."""


class Empty(Result, frozen=True):
    """``{}``."""


# --- lifecycle -------------------------------------------------------------------------------


class NoParams(Params, frozen=True):
    """A method without parameters."""


class ClientInfo(Params, frozen=True):
    name: Annotated[str, Meta(max_length=256)]
    version: Annotated[str, Meta(max_length=256)]


class Auth(Params, frozen=True):
    """Credentials for gated downloads; kept in memory only and never logged."""

    token: Annotated[str, Meta(max_length=4096)]


class InitializeParams(Params, frozen=True):
    protocol_version: int
    client_info: ClientInfo
    manifest: dict[str, Any] | None = None
    grants: dict[str, str] | None = None
    process_id: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    auth: Auth | None = None


class ServerInfo(Result, frozen=True):
    name: str
    version: str


class Limits(Result, frozen=True):
    max_line_bytes: int
    max_inline_image_bytes: int
    max_queue: int
    max_batch: int
    max_prompt_bytes: int


class EngineInfo(Result, frozen=True):
    """One engine: whether it can run on this machine, on which device, and if not, why."""

    name: str
    available: bool
    reason: str
    device: str | None = None


class ServerCapabilities(Result, frozen=True):
    methods: list[str]
    notifications: list[str]
    engines: list[str]
    image_formats: list[str]
    limits: Limits


class AppWarning(Result, frozen=True):
    """A remark on the manifest or the grants that is not an error, for the app's developer.

    ``kind``: UnknownMember, UnknownModality, FolderMissing or FolderDenied; ``path`` is the member of the params that
    it is about.
    """

    kind: str
    message: str
    path: str


class AppInfo(Result, frozen=True):
    """The app as the manifest names it (``<publisher>/<name>@<version>``) and what it was granted."""

    id: str | None
    granted: list[str]
    warnings: list[AppWarning] = []


class InitializeResult(Result, frozen=True):
    protocol_version: int
    server_info: ServerInfo
    capabilities: ServerCapabilities
    app: AppInfo


class EngineStatus(Result, frozen=True):
    """``state``: stopped, starting, idle, busy, stuck or dead; times in milliseconds."""

    state: Literal["stopped", "starting", "idle", "busy", "stuck", "dead"]
    pid: int | None
    model: str | None
    last_progress_ms: int | None


class JobCounts(Result, frozen=True):
    running: int
    queued: int


class PingResult(Result, frozen=True):
    uptime_ms: int
    engine: EngineStatus
    jobs: JobCounts


class MemoryInfo(Result, frozen=True):
    """Bytes. ``total`` and ``available`` respect a container's limit; ``daemon`` and ``engine`` are resident sizes."""

    total: int
    available: int
    daemon: int
    engine: int | None


class PlatformInfo(Result, frozen=True):
    system: str
    release: str
    machine: str
    python: str
    cpus: int


class SandboxInfo(Result, frozen=True):
    """What actually confines the engine process on this machine, as the engine found out by trying.

    ``enforced``: every forbidden attempt was blocked. ``reason`` says what holds and what is missing. ``details``: one
    word for each attempt (``blocked``, ``open`` or ``unknown``), and the mechanisms with their versions.
    """

    enforced: bool
    kind: str
    reason: str
    details: dict[str, str] = {}


class PowerInfo(Result, frozen=True):
    """What slows the system down, as it reports it: ``low_power``, its power-saving mode; ``thermal_state``, absent if
    it is not known.
    """

    low_power: bool
    thermal_state: Literal["nominal", "fair", "serious", "critical"] | UnsetType = UNSET


class SystemInfo(Result, frozen=True):
    """``power``: only on systems that report it (macOS 12 and later)."""

    platform: PlatformInfo
    memory: MemoryInfo
    engines: list[EngineInfo]
    sandbox: SandboxInfo
    cache_root: str
    version: str
    power: PowerInfo | UnsetType = UNSET


# --- audit.capabilityLog ---------------------------------------------------------------------


class CapabilityLogParams(Params, frozen=True):
    """At most ``limit`` decisions: the first ones after ``after``, or the latest of all without it."""

    limit: Annotated[int, Meta(ge=1, le=MAX_AUDIT_ENTRIES)] | None = None
    after: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class AuditEntry(Result, frozen=True):
    """One decision of the gate. ``seq`` counts them from 1; ``time`` is UTC, ``2026-11-23T01:44:55.123Z``."""

    seq: int
    time: str
    capability: str
    resource: str
    decision: Literal["allow", "deny"]
    reason: str
    request_id: int | str | None


class CapabilityLogResult(Result, frozen=True):
    """Oldest first."""

    entries: list[AuditEntry]


# --- notifications that a host sends ---------------------------------------------------------


class CancelRequestParams(Params, frozen=True):
    """``$/cancelRequest`` and ``$/cancel_request``: the id of the request to cancel."""

    id: int | str


class CancelledParams(Params, frozen=True):
    """``notifications/cancelled``."""

    request_id: int | str
    reason: str | None = None
