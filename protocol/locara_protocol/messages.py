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

ChannelId = (
    Annotated[int, Meta(ge=0, le=U32_MAX)]
    | Annotated[str, Meta(pattern=r"^__CHANNEL__:(0|[1-9][0-9]{0,9})$", max_length=22)]
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


class Empty(Result):
    """``{}``."""


# --- lifecycle -------------------------------------------------------------------------------


class NoParams(Params):
    """A method without parameters."""


class ClientInfo(Params):
    name: Annotated[str, Meta(max_length=256)]
    version: Annotated[str, Meta(max_length=256)]


class Auth(Params):
    """Credentials for gated downloads; kept in memory only and never logged."""

    token: Annotated[str, Meta(max_length=4096)]


class InitializeParams(Params):
    protocol_version: Annotated[int, Meta(ge=1)]
    client_info: ClientInfo
    manifest: dict[str, Any] | None = None
    grants: dict[str, str] | None = None
    process_id: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    auth: Auth | None = None


class ServerInfo(Result):
    name: str
    version: str


class Limits(Result):
    max_line_bytes: int
    max_inline_image_bytes: int
    max_queue: int
    max_batch: int
    max_prompt_bytes: int


class EngineInfo(Result):
    """One engine: whether it can run on this machine, on what device, and why (not)."""

    name: str
    available: bool
    reason: str
    device: str | None = None


class ServerCapabilities(Result):
    methods: list[str]
    notifications: list[str]
    engines: list[str]
    image_formats: list[str]
    limits: Limits


class AppInfo(Result):
    """The app as the manifest names it (``<publisher>/<name>@<version>``) and what it was granted."""

    id: str | None
    granted: list[str]


class InitializeResult(Result):
    protocol_version: int
    server_info: ServerInfo
    capabilities: ServerCapabilities
    app: AppInfo


class EngineStatus(Result):
    """``state``: stopped, starting, idle, busy, stuck or dead; times in milliseconds."""

    state: Literal["stopped", "starting", "idle", "busy", "stuck", "dead"]
    pid: int | None
    model: str | None
    last_progress_ms: int | None


class JobCounts(Result):
    running: int
    queued: int


class PingResult(Result):
    uptime_ms: int
    engine: EngineStatus
    jobs: JobCounts


class MemoryInfo(Result):
    """Bytes. ``total`` and ``available`` honour a container's limit; ``daemon`` and ``engine`` are resident sizes."""

    total: int
    available: int
    daemon: int
    engine: int | None


class PlatformInfo(Result):
    system: str
    release: str
    machine: str
    python: str
    cpus: int


class SandboxInfo(Result):
    """What really confines the engine process on this machine; ``reason`` says what is missing and why."""

    enforced: bool
    kind: str
    reason: str


class SystemInfo(Result):
    platform: PlatformInfo
    memory: MemoryInfo
    engines: list[EngineInfo]
    sandbox: SandboxInfo
    cache_root: str
    version: str


# --- image.generate --------------------------------------------------------------------------


class PreviewOptions(Params):
    mode: Literal["auto", "linear", "tiny", "full", "off"] | None = None
    every_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    max_side: Annotated[int, Meta(ge=16, le=1024)] | None = None
    max_bytes: Annotated[int, Meta(ge=512, le=MAX_PREVIEW_BYTES)] | None = None
    mime_type: ImageMime | None = None


class OutputOptions(Params):
    mode: Literal["save", "inline", "both"] | None = None
    root: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    on_conflict: Literal["rename", "error", "overwrite"] | None = None
    mime_type: ImageMime | None = None
    quality: Annotated[int, Meta(ge=1, le=100)] | None = None
    metadata: Literal["full", "none"] | None = None


class GenerateOptions(Params):
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
    engine: Literal["auto", "mlx", "torch", "fake"] | None = None
    preview: PreviewOptions | None = None
    output: OutputOptions | None = None


class GenerateParams(Params):
    prompt: str
    channel: ChannelId | None = None
    options: GenerateOptions | None = None


class PreviewImage(Result):
    """A decoded preview: ``data`` is base64 of an encoded image of ``width`` × ``height`` pixels."""

    mime_type: ImageMime
    width: int
    height: int
    data: str
    decoder: PreviewDecoder
    source: Literal["x0"] = "x0"


class DiffusionStep(Result):
    """The state of a running generation; the message of an ``image.generate`` channel."""

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


class ImageResult(Result):
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


class ModelUsed(Result):
    id: str
    version: str
    digest: str
    engine: str
    device: str
    quantization: str
    precision: str


class Timings(Result):
    """Milliseconds, summed over the images of the call."""

    queued_ms: int
    load_ms: int
    encode_ms: int
    denoise_ms: int
    decode_ms: int
    save_ms: int
    total_ms: int


class Warning(Result):
    kind: str
    message: str


class GenerateResult(Result):
    job_id: str
    images: list[ImageResult]
    model: ModelUsed
    parameters: dict[str, Any]
    timings: Timings
    peak_memory_bytes: int
    warnings: list[Warning]


class CancelJobParams(Params):
    job_id: Annotated[str, Meta(min_length=1, max_length=256)]


class CancelJobResult(Result):
    """``cancelled``: whether a queued or running job of that id was told to stop."""

    cancelled: bool


class JobInfo(Result):
    job_id: str
    method: str
    state: JobState
    request_id: int | str
    channel: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    last: DiffusionStep | UnsetType = UNSET


class JobsListResult(Result):
    jobs: list[JobInfo]


# --- notifications that a host sends ---------------------------------------------------------


class CancelRequestParams(Params):
    """``$/cancelRequest`` and ``$/cancel_request``: the id of the request to cancel."""

    id: int | str


class CancelledParams(Params):
    """``notifications/cancelled``."""

    request_id: int | str
    reason: str | None = None


# --- channel frames --------------------------------------------------------------------------


class ChannelMessage(Result):
    """Tauri's own frame around one message; ``index`` starts at 0 and has no holes."""

    channel: int
    index: int
    message: DiffusionStep


class ChannelEnd(Result):
    """The last frame of a channel; ``index`` equals the number of messages sent."""

    channel: int
    index: int
    end: Literal[True] = True
