"""The typed messages of the wire: what is sent, what is answered, what is streamed.

Python names are snake_case, wire names camelCase. Parameters are strict (an unknown member is
refused); results and notifications may grow, and hosts ignore members that they do not know.
Every optional parameter also accepts ``null`` as "absent", because Rust hosts send it; defaults
are therefore filled in by the daemon's resolver and appear resolved in a result's ``parameters``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

U32_MAX = 2**32 - 1
MAX_PROMPT_BYTES = 16 * 1024
MAX_STEPS = 200
MAX_COUNT = 16
MAX_PREVIEW_BYTES = 40 * 1024
MAX_AUDIT_ENTRIES = 1000

_U32 = (
    r"(0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}"
    r"|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])"
)
_CHANNEL_WORDS = 'a channel: an integer from 0 to 4294967295, or the same as "__CHANNEL__:<integer>"'

ChannelId = (
    Annotated[int, Meta(ge=0, le=U32_MAX, description=_CHANNEL_WORDS)]
    # (?!\n) because Python's $ also matches before a last line break, which ECMA's does not
    | Annotated[str, Meta(pattern=rf"^__CHANNEL__:{_U32}$(?!\n)", description=_CHANNEL_WORDS)]
)
"""A Tauri channel: the bare u32, or the string ``__CHANNEL__:<u32>`` that Tauri serialises."""

ImageMime = Literal["image/png", "image/jpeg", "image/webp"]
Phase = Literal["queued", "loading", "encoding", "denoising", "decoding", "saving"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
PreviewDecoder = Literal["linear", "tiny", "full"]


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
    """One engine: whether it can run on this machine, on what device, and why (not)."""

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


class AppInfo(Result, frozen=True):
    """The app as the manifest names it (``<publisher>/<name>@<version>``) and what it was granted."""

    id: str | None
    granted: list[str]


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
    """Bytes. ``total`` and ``available`` honour a container's limit; ``daemon`` and ``engine`` are resident sizes."""

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
    """What really confines the engine process on this machine, as the engine found by trying.

    ``enforced``: every attempt at what is forbidden was blocked. ``reason`` says what holds and what is missing.
    ``details``: one word for each attempt (``blocked``, ``open`` or ``unknown``), and the means in their versions.
    """

    enforced: bool
    kind: str
    reason: str
    details: dict[str, str] = {}


class SystemInfo(Result, frozen=True):
    platform: PlatformInfo
    memory: MemoryInfo
    engines: list[EngineInfo]
    sandbox: SandboxInfo
    cache_root: str
    version: str


# --- image.generate and image.edit --------------------------------------------------------------------------


class PreviewOptions(Params, frozen=True):
    mode: Literal["auto", "linear", "tiny", "full", "off"] | None = None
    every_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    max_side: Annotated[int, Meta(ge=16, le=1024)] | None = None
    max_bytes: Annotated[int, Meta(ge=512, le=MAX_PREVIEW_BYTES)] | None = None
    mime_type: ImageMime | None = None


class OutputOptions(Params, frozen=True):
    mode: Literal["save", "inline", "both"] | None = None
    root: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    on_conflict: Literal["rename", "error", "overwrite"] | None = None
    mime_type: ImageMime | None = None
    quality: Annotated[int, Meta(ge=1, le=100)] | None = None
    metadata: Literal["full", "none"] | None = None


class GenerateOptions(Params, frozen=True):
    model: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    negative_prompt: str | None = None
    width: Annotated[int, Meta(ge=1, le=65536)] | None = None
    height: Annotated[int, Meta(ge=1, le=65536)] | None = None
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Meta(ge=0.0, le=1000.0)] | None = None
    seed: Annotated[int, Meta(ge=0, le=U32_MAX)] | None = None
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] | None = None
    scheduler: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    speed: Literal["exact", "balanced", "fast"] | None = None
    quantization: Literal["auto", "none", "8bit", "4bit"] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    tiling: Literal["auto", "on", "off"] | None = None
    engine: Literal["auto", "mlx", "torch"] | None = None
    preview: PreviewOptions | None = None
    output: OutputOptions | None = None


class GenerateParams(Params, frozen=True):
    prompt: str
    channel: ChannelId | None = None
    options: GenerateOptions | None = None


class ImageInput(Params, frozen=True):
    """An image that the host names in a granted root, or sends: exactly one of the two forms, whole."""

    root: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    data: Annotated[bytes, Meta(description="base64 with its padding and without line breaks")] | None = None
    mime_type: ImageMime | None = None


def _one_form_of(*others: dict[str, Any]) -> Meta:
    """Says in the schema that an :class:`ImageInput` has one of its two forms, or is one of ``others``."""
    forms = (("root", "path"), ("data", "mimeType"))
    names = [name for form in forms for name in form]
    shapes = [
        {
            "type": "object",
            "required": list(form),
            "properties": {name: {"type": "string" if name in form else "null"} for name in names},
        }
        for form in forms
    ]
    return Meta(extra_json_schema={"oneOf": [*shapes, *others]})


class EditOptions(GenerateOptions, frozen=True):
    strength: Annotated[float, Meta(gt=0.0, le=1.0, description="a number above 0 and at most 1")] | None = None


class EditParams(GenerateParams, frozen=True, kw_only=True):
    """``mask``: white is repainted, black stays."""

    image: Annotated[ImageInput, _one_form_of()]
    mask: Annotated[ImageInput | None, _one_form_of({"type": "null"})] = None
    options: EditOptions | None = None


class PreviewImage(Result, frozen=True):
    """A decoded preview: ``data`` is base64 of an encoded image of ``width`` × ``height`` pixels."""

    mime_type: ImageMime
    width: int
    height: int
    data: str
    decoder: PreviewDecoder
    source: Literal["x0"] = "x0"


class DiffusionStep(Result, frozen=True):
    """The state of a running generation; the message of an ``image.generate`` or ``image.edit`` channel."""

    job_id: str
    phase: Phase
    image: int
    images: int
    step: int
    steps: int
    progress: float
    elapsed_ms: int
    eta_ms: int | UnsetType = UNSET
    preview: PreviewImage | UnsetType = UNSET


class ImageResult(Result, frozen=True):
    """One finished image. ``path`` is absolute; ``data`` (base64) only with output mode inline or both."""

    mime_type: ImageMime
    width: int
    height: int
    bytes: int
    sha256: str
    seed: int
    path: str | UnsetType = UNSET
    root: str | UnsetType = UNSET
    relative_path: str | UnsetType = UNSET
    data: str | UnsetType = UNSET


class ModelUsed(Result, frozen=True):
    id: str
    version: str
    digest: str
    engine: str
    device: str
    quantization: str
    precision: str


class Timings(Result, frozen=True):
    """Milliseconds, summed over the images of the call."""

    queued_ms: int
    load_ms: int
    encode_ms: int
    denoise_ms: int
    decode_ms: int
    save_ms: int
    total_ms: int


class Warning(Result, frozen=True):
    kind: str
    message: str


class GenerateResult(Result, frozen=True):
    """``peak_memory_bytes``: the engine process's height so far as the operating system counts it;
    ``peak_allocated_bytes``: that of its arrays alone, where its allocator counts them (MLX)."""

    job_id: str
    images: list[ImageResult]
    model: ModelUsed
    parameters: dict[str, Any]
    timings: Timings
    peak_memory_bytes: int
    warnings: list[Warning]
    peak_allocated_bytes: int | UnsetType = UNSET


class CancelJobParams(Params, frozen=True):
    job_id: Annotated[str, Meta(min_length=1, max_length=256)]


class CancelJobResult(Result, frozen=True):
    """``cancelled``: whether a queued or running job of that id was told to stop."""

    cancelled: bool


class JobInfo(Result, frozen=True):
    job_id: str
    method: str
    state: JobState
    request_id: int | str
    channel: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    last: DiffusionStep | UnsetType = UNSET


class JobsListResult(Result, frozen=True):
    jobs: list[JobInfo]


# --- audit.capabilityLog ---------------------------------------------------------------------


class CapabilityLogParams(Params, frozen=True):
    """At most ``limit`` decisions: the first ones behind ``after``, or the latest of all without it."""

    limit: Annotated[int, Meta(ge=1, le=MAX_AUDIT_ENTRIES)] | None = None
    after: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class AuditEntry(Result, frozen=True):
    """One decision of the gate. ``seq`` starts at 1 and has no holes; ``time`` is UTC, ``2026-11-23T01:44:55.123Z``."""

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
