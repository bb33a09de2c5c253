"""The typed messages of ``image.*``; for what all messages share, see :mod:`locara_protocol.messages`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from locara_protocol.host_messages import FileHandle
from locara_protocol.messages import U32_MAX, ChannelId, EngineName, Params, Result

MAX_PROMPT_BYTES = 16 * 1024
MAX_STEPS = 200
MAX_COUNT = 16
MAX_REFERENCES = 10
MAX_PREVIEW_BYTES = 40 * 1024

Forms = tuple[dict[str, str], ...]
"""The ways to fill in an object: in each, the members that it needs, with their JSON types, and none of the others'."""
ImageMime = Literal["image/png", "image/jpeg", "image/webp"]
Phase = Literal["queued", "loading", "encoding", "denoising", "decoding", "saving"]
PreviewDecoder = Literal["linear", "tiny", "full"]


class PreviewOptions(Params, frozen=True):
    mode: Literal["auto", "linear", "tiny", "full", "off"] | None = None
    every_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    max_side: Annotated[int, Meta(ge=16, le=1024)] | None = None
    max_bytes: Annotated[int, Meta(ge=512, le=MAX_PREVIEW_BYTES)] | None = None
    mime_type: ImageMime | None = None


class OutputOptions(Params, frozen=True):
    """``handle``: of a file picked for writing, in place of ``root``, ``path`` and ``on_conflict``."""

    mode: Literal["save", "inline", "both"] | None = None
    handle: FileHandle | None = None
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
    engine: EngineName | None = None
    preview: PreviewOptions | None = None
    output: OutputOptions | None = None


class GenerateParams(Params, frozen=True):
    prompt: str
    channel: ChannelId | None = None
    options: GenerateOptions | None = None


class ImageInput(Params, frozen=True):
    """An image: a file in a granted root, a picked file, or the bytes themselves; exactly one of the three forms,
    complete.
    """

    forms: ClassVar[Forms] = (
        {"root": "string", "path": "string"},
        {"handle": "string"},
        {"data": "string", "mimeType": "string"},
    )

    root: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    handle: FileHandle | None = None
    data: Annotated[bytes, Meta(description="base64 with its padding and without line breaks")] | None = None
    mime_type: ImageMime | None = None


class EditOptions(GenerateOptions, frozen=True):
    strength: Annotated[float, Meta(gt=0.0, le=1.0, description="a number above 0 and at most 1")] | None = None


class EditParams(GenerateParams, frozen=True, kw_only=True):
    """Either ``image`` or, in order, ``images``. ``mask``: white is repainted, black is kept."""

    forms: ClassVar[Forms] = ({"image": "object"}, {"images": "array"})

    image: ImageInput | None = None
    images: Annotated[list[ImageInput], Meta(min_length=1, max_length=MAX_REFERENCES)] | None = None
    mask: ImageInput | None = None
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
    """One finished image. ``path`` is absolute; a picked file has ``handle`` instead; ``data`` (base64) only with
    output mode inline or both.
    """

    mime_type: ImageMime
    width: int
    height: int
    bytes: int
    sha256: str
    seed: int
    path: str | UnsetType = UNSET
    root: str | UnsetType = UNSET
    relative_path: str | UnsetType = UNSET
    handle: str | UnsetType = UNSET
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
    """``peak_memory_bytes``: the engine process's peak so far, as measured by the operating system;
    ``peak_allocated_bytes``: the peak of its arrays alone, if its allocator tracks it (MLX).
    """

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
    """``cancelled``: whether a queued or running job with that id was told to stop."""

    cancelled: bool
