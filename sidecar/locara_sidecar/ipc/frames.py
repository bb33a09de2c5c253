"""The messages between the daemon and the engine process; :mod:`locara_sidecar.ipc.framing` encodes them.

Commands go to the engine, events come back. Both sides come from the same installation. After an incomplete
update they must fail with a clear message, so the first exchange compares :data:`VERSION`.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from locara_protocol.image_messages import ImageMime, Phase, PreviewDecoder

VERSION = 7
OTHER_VERSION = "the daemon and the engine come from different versions of Locara"
"""The reason of an :class:`Unavailable` from an engine that was started by a daemon with another VERSION. The daemon
recognizes it by these words, so they must stay the same in all versions.
"""
PREPARED_LAYOUT = 1
"""The version of the tensor names and layout in a prepared form; forms of any other version are not used. Increment it
when they change.
"""


# --- job description ------------------------------------------------------------------------


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that a model allows, in pixels: each side a multiple of ``multiple_of`` within the bounds."""

    minimum: int
    maximum: int
    multiple_of: int
    max_pixels: int


class PreparedForm(msgspec.Struct, frozen=True, kw_only=True):
    """A model as quantized by an engine: a complete model folder at ``path``. No value is ``auto``."""

    quantization: str
    precision: str
    path: str


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the engine needs it: where its files are, and how to run them.

    ``path``: a folder in diffusers layout. ``max_sequence_length``: in T5 or Qwen3 tokens. ``quantization`` and
    ``precision``: as requested; the engine resolves ``auto``. ``reserved``: bytes of this machine's memory that other
    daemons' engines hold or have reserved. ``prepared``: the forms of exactly this model (its ``digest``) that can be
    loaded instead of ``path``. ``schedulers``: those of its catalogue entry, to suggest if a job's cannot be run; empty
    for any.
    """

    id: str
    version: str
    digest: str
    family: str
    path: str
    max_sequence_length: int
    quantization: str
    precision: str
    sides: Sides
    reserved: int = 0
    prepared: list[PreparedForm] = []
    schedulers: list[str] = []

    def folders(self, *, prepared: bool = True) -> tuple[str, ...]:
        """The folders that a job with this model needs: the engine may read only these, they are kept from removal, and
        they identify the open model. Empty for the fake engine, whose models have no files.

        :param prepared: whether to include the prepared forms, which do not change which model it is.
        """
        paths = [self.path, *(form.path for form in self.prepared if prepared)]
        return tuple(path for path in paths if os.path.isabs(path))


class PreviewSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How previews are made. ``max_bytes`` bounds the encoded image before base64."""

    mode: Literal["auto", "linear", "tiny", "full", "off"]
    every_steps: int
    max_side: int
    max_bytes: int
    mime_type: ImageMime


class EncodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How the final image is encoded. ``metadata``: what determines an image, except for its seed; None for none."""

    mime_type: ImageMime
    quality: int
    metadata: dict[str, Any] | None


class EditSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The source of an edit: image files as the host sent them, decoded only in the engine.

    ``images``: in the call's order, at least one; the first gives the job its size. ``mask``: white is repainted.
    ``strength``: in (0, 1]; None for a model that follows an instruction instead. ``listed``: whether the call had
    ``images`` and not ``image``, which errors have to name.
    """

    images: list[bytes]
    mask: bytes | None = None
    strength: float | None = None
    listed: bool = False

    def path(self, index: int) -> str:
        """The parameter that holds the picture at ``index``."""
        return f"$.images[{index}]" if self.listed else "$.image"


class ResolvedOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The options of a call, each with its value: with the model, the prompt and the source, they determine the images.

    The job, the answer's ``parameters`` and the file's metadata all have exactly these members, in this order; an
    option added here is in all three.

    Image k of ``count`` (1-based) uses ``seed + k - 1``. ``width`` and ``height`` are 0 in an edit whose host named
    none: then they are the source's, which only the engine learns. ``strength`` is absent for what has none.
    """

    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int = 1
    scheduler: str
    speed: str = "exact"
    quantization: str = "auto"
    precision: str = "auto"
    tiling: str = "off"
    engine: str = "auto"
    strength: float | UnsetType = UNSET


class JobSpec(ResolvedOptions, frozen=True, kw_only=True):
    """One generation or edit, with every option resolved."""

    job: str
    model: ModelSpec
    prompt: str
    preview: PreviewSpec
    output: EncodeSpec
    edit: EditSpec | None = None


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model to load before its first job. ``width`` and ``height``: the size in pixels to plan memory for."""

    job: str
    model: ModelSpec
    width: int
    height: int


class PrepareSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model to quantize and write to the empty folder ``into``."""

    job: str
    model: ModelSpec
    into: str


AnySpec = JobSpec | LoadSpec | PrepareSpec


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The values that the engine chose for ``auto``, and the job's size; no value is ``auto``, no size is 0."""

    quantization: str
    precision: str
    width: int
    height: int
    tiling: str = "off"
    speed: str = "exact"


# --- commands: daemon to engine -------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first command. ``settings``: an engine's own switches (torch's ``compile``, the fake engine's faults).

    ``readable``: folders and files of granted models, absolute; apart from the installation, the engine can never read
    anything else. ``writable``: folders that it may write to besides ``scratch``.
    """

    version: int
    engine: str
    scratch: str
    settings: dict[str, str] = {}
    readable: list[str] = []
    writable: list[str] = []


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Do a job; ends with :class:`Done`, :class:`Failed` or :class:`Cancelled`."""

    spec: JobSpec


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Load a model without drawing; ends with :class:`Loaded`, :class:`Failed` or :class:`Cancelled`."""

    spec: LoadSpec


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Quantize a model and write it to disk; ends with :class:`Prepared`, :class:`Failed` or :class:`Cancelled`."""

    spec: PrepareSpec


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """The next piece of a file of the edit ``job``; the job's :class:`Generate` follows after all pieces.

    ``file``: the index among its files: the images in order, then the mask.
    """

    job: str
    file: int
    data: bytes


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop job ``job`` wherever it is; answered with :class:`Cancelled` unless it has already ended."""

    job: str


class Exit(msgspec.Struct, frozen=True, kw_only=True, tag="exit"):
    """End the process now; a closed pipe means the same."""


Command = Start | Generate | Piece | Load | Prepare | Cancel | Exit


# --- events: engine to daemon ---------------------------------------------------------------


class SandboxReport(msgspec.Struct, frozen=True, kw_only=True):
    """What confines the engine process, as it found out by trying; ``details`` has one word for each attempt and
    mechanism.
    """

    kind: str
    enforced: bool
    reason: str
    details: dict[str, str] = {}


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The answer to :class:`Start`: the engine can take jobs."""

    version: int
    engine: str
    device: str
    pid: int
    sandbox: SandboxReport | None = None
    note: str | None = None
    """A sentence about the device for the user, such as why an existing GPU is not used."""


class Unavailable(msgspec.Struct, frozen=True, kw_only=True, tag="unavailable"):
    """The other answer to :class:`Start`: the reason why this engine cannot run here."""

    reason: str


class PhaseStarted(msgspec.Struct, frozen=True, kw_only=True, tag="phase"):
    """A phase of a job begins. ``fraction`` (0…1): how much of loading is done, if known."""

    job: str
    phase: Phase
    image: int
    fraction: float = 0.0


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """A sign of progress within a phase (a block computed, bytes read), a few times a second at most."""

    job: str


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A step's picture as an encoded file; ``width`` and ``height`` in pixels."""

    data: bytes
    mime_type: ImageMime
    width: int
    height: int
    decoder: PreviewDecoder


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One finished denoising step; ``step`` counts from 1, ``steps`` is how many will actually run."""

    job: str
    image: int
    step: int
    steps: int
    preview: Preview | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """One finished image as an encoded file; ``width`` and ``height`` in pixels."""

    job: str
    image: int
    seed: int
    data: bytes
    mime_type: ImageMime
    width: int
    height: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The job has made all its images. Times in seconds; memory in bytes: the process's as the operating system counts
    it, and the arrays' alone if the allocator counts them.

    ``warnings``: (kind, message) pairs.
    """

    job: str
    engine: str
    device: str
    settled: Settled
    load: float
    encode: float
    denoise: float
    decode: float
    peak_memory: int
    peak_allocated: int | None = None
    warnings: list[tuple[str, str]]


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The answer to :class:`Load`: the model is ready for jobs. ``quantization`` and ``precision`` are never ``auto``.

    ``memory``: bytes that the engine uses with the model loaded, in the process and on the device.
    """

    job: str
    engine: str
    device: str
    quantization: str
    precision: str
    memory: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The answer to :class:`Prepare`. ``components``: the folders that were written, each replacing the model's own.
    ``there``: the path of an identical form that already exists; nothing was written then.
    """

    job: str
    quantization: str
    precision: str
    components: list[str] = []
    there: str | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job failed; ``kind`` is a key of the protocol's error table. The engine keeps running."""

    job: str
    kind: str
    message: str
    data: dict[str, Any] = {}


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The job was stopped, and the device is idle."""

    job: str


class Log(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """A log record of the engine, for the daemon's stderr; never contains a prompt."""

    level: str
    logger: str
    msg: str
    fields: dict[str, Any] = {}


Event = (
    Ready | Unavailable | PhaseStarted | Heartbeat | Step | Image | Done | Loaded | Prepared | Failed | Cancelled | Log
)
