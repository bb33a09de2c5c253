"""What the daemon and the engine process say to each other; :mod:`locara_sidecar.ipc.framing` has it cross a pipe.

Commands go down, events come up. Both sides come from the same installation, but a half-updated one must fail with a
sentence and not with a riddle: :data:`VERSION` is compared in the first exchange.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from locara_protocol.image_messages import ImageMime, Phase, PreviewDecoder

VERSION = 7
PREPARED_LAYOUT = 1
"""Names and layout of the tensors in a prepared form; one of another number is not used. Raise it when they change."""


# --- job description ------------------------------------------------------------------------


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that a model allows, in pixels: each side a multiple of ``multiple_of`` within the bounds."""

    minimum: int
    maximum: int
    multiple_of: int
    max_pixels: int


class PreparedForm(msgspec.Struct, frozen=True, kw_only=True):
    """A model kept as an engine has quantized it: a whole model folder at ``path``. Nothing of it is ``auto``."""

    quantization: str
    precision: str
    path: str


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the engine needs it: where its files are and how its family runs it.

    ``path`` is a folder in diffusers layout; ``max_sequence_length`` the T5 length (SD3: zeros when it
    has no third encoder); ``quantization``/``precision`` as asked (``auto`` is resolved by the engine).
    ``reserved``: bytes of this machine's memory that other daemons' engines hold or were promised. ``prepared``: the
    forms of this very model (its ``digest``) that are there to be loaded in place of ``path``. ``schedulers``: those of
    its catalogue entry, to be told where a job's cannot be run; empty for any.
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
        """The folders that a job with this model needs: the engine is confined to them, they are kept from being
        removed, and they say which model is open. None for the fake engine, whose models have no files.

        :param prepared: with the prepared forms, which change nothing of what the model is.
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
    """How the final image is encoded. ``metadata``: what determines an image, its seed left out; None: no metadata."""

    mime_type: ImageMime
    quality: int
    metadata: dict[str, Any] | None


class EditSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is edited: image files as the host gave them, to be decoded in the engine only.

    ``images``: in the call's order, at least one; the first gives the job its size. ``mask``: white is repainted.
    ``strength`` is in (0, 1]; None for a model that follows an instruction instead. ``listed``: the call has them as
    ``images``, not as ``image``, which is how errors name them.
    """

    images: list[bytes]
    mask: bytes | None = None
    strength: float | None = None
    listed: bool = False

    def path(self, index: int) -> str:
        """The parameter that has the picture at ``index``."""
        return f"$.images[{index}]" if self.listed else "$.image"


class ResolvedOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What determines a job's images besides its model, prompt and source: the options of the call, each with its
    value. They are the job's, the answer's ``parameters`` and the file's metadata, in this order and by these names;
    an option that is added here is in all three.

    Image k of ``count`` (1-based) uses ``seed + k - 1``. ``width`` and ``height`` are 0 in an edit whose host named
    none: the source's own, which only the engine learns. ``strength`` is absent where there is none.
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
    """One generation or edit, every option resolved."""

    job: str
    model: ModelSpec
    prompt: str
    preview: PreviewSpec
    output: EncodeSpec
    edit: EditSpec | None = None


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be loaded ahead of its first job. ``width`` and ``height``: the size, in pixels, that memory is
    planned for."""

    job: str
    model: ModelSpec
    width: int
    height: int


class PrepareSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be quantized and written to the empty folder ``into``, which the engine may write to."""

    job: str
    model: ModelSpec
    into: str


AnySpec = JobSpec | LoadSpec | PrepareSpec


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine made of the options that were left to it; never ``auto``, and sizes are never 0."""

    quantization: str
    precision: str
    width: int
    height: int
    tiling: str = "off"
    speed: str = "exact"


# --- commands: daemon to engine -------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first command. ``settings``: an engine's own switches (torch's ``compile``, the fake engine's faults).

    ``readable``: folders and files of granted models, absolute; with the installation they are all that the
    engine will ever be able to read. ``writable``: folders that it may write to besides ``scratch``.
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
    """Load a model and make nothing; ends with :class:`Loaded`, :class:`Failed` or :class:`Cancelled`."""

    spec: LoadSpec


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Quantize a model and write it; ends with :class:`Prepared`, :class:`Failed` or :class:`Cancelled`."""

    spec: PrepareSpec


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """The next piece of a file of the edit ``job``, whose :class:`Generate` comes after all its pieces.

    ``file``: the position among its files, which are the images in order and then the mask.
    """

    job: str
    file: int
    data: bytes


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop job ``job`` wherever it is; answered with :class:`Cancelled` unless it has already ended."""

    job: str


class Exit(msgspec.Struct, frozen=True, kw_only=True, tag="exit"):
    """End the process now; also what a closed pipe means."""


Command = Start | Generate | Piece | Load | Prepare | Cancel | Exit


# --- events: engine to daemon ---------------------------------------------------------------


class SandboxReport(msgspec.Struct, frozen=True, kw_only=True):
    """What confines the engine process, as it found by trying; ``details`` has one word for each attempt and means."""

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
    """What the user should know of the device, in a sentence: a GPU that is there and cannot be used."""


class Unavailable(msgspec.Struct, frozen=True, kw_only=True, tag="unavailable"):
    """The other answer to :class:`Start`: why this engine cannot run here."""

    reason: str


class PhaseStarted(msgspec.Struct, frozen=True, kw_only=True, tag="phase"):
    """``fraction`` (0…1) tells how far a loading phase is, where that is known."""

    job: str
    phase: Phase
    image: int
    fraction: float = 0.0


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Progress inside a phase (a block computed, bytes read), a few times a second at most."""

    job: str


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A step's picture, encoded; ``width`` and ``height`` in pixels."""

    data: bytes
    mime_type: ImageMime
    width: int
    height: int
    decoder: PreviewDecoder


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One finished denoising step; ``step`` counts from 1, ``steps`` is how many will really run."""

    job: str
    image: int
    step: int
    steps: int
    preview: Preview | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """One finished image as encoded bytes; times in seconds for this image."""

    job: str
    image: int
    seed: int
    data: bytes
    mime_type: ImageMime
    width: int
    height: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """All images of the job are out. Times in seconds, memory in bytes (the system's figure for the process, and the
    allocator's own for its arrays where it counts them).

    ``warnings``: (kind, message) pairs. ``steps``: steps that ran an image.
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
    """The answer to :class:`Load`: the model is there for jobs. ``quantization`` and ``precision`` are never ``auto``.

    ``memory``: bytes that the engine takes with it, in the process and on the device.
    """

    job: str
    engine: str
    device: str
    quantization: str
    precision: str
    memory: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The answer to :class:`Prepare`. ``components``: the folders that were written, each in place of the model's own;
    ``there``: the path of a form of the model that is the same already, and nothing was written."""

    job: str
    quantization: str
    precision: str
    components: list[str] = []
    there: str | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job failed; ``kind`` is a key of the protocol's error table. The engine itself lives on."""

    job: str
    kind: str
    message: str
    data: dict[str, Any] = {}


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The job was stopped and the device is idle."""

    job: str


class Log(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """A log record of the engine, for the daemon's stderr; never with a prompt in it."""

    level: str
    logger: str
    msg: str
    fields: dict[str, Any] = {}


Event = (
    Ready | Unavailable | PhaseStarted | Heartbeat | Step | Image | Done | Loaded | Prepared | Failed | Cancelled | Log
)
