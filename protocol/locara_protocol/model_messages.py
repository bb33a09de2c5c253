"""The typed messages of ``models.*``; for what all messages share, see :mod:`locara_protocol.messages`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from locara_protocol.messages import ChannelId, EngineName, Params, Result

ModelId = Annotated[str, Meta(min_length=1, max_length=256)]
DownloadPhase = Literal["resolving", "downloading", "verifying", "publishing"]
ModelPhase = Literal["queued", "loading", "reading", "verifying", "publishing"]
Fit = Literal["fits", "tight", "no"]


class ModelParams(Params, frozen=True):
    """The model, by its catalogue id."""

    model: ModelId


class ModelWorkParams(Params, frozen=True):
    """A long call about one model."""

    model: ModelId
    channel: ChannelId | None = None


class ImportParams(Params, frozen=True):
    """``from``: the absolute path of a folder in diffusers' layout, or of a model's folder in a Hugging Face cache.
    ``replace``: replace another model that is installed under this id.
    """

    model: ModelId
    folder: Annotated[str, Meta(min_length=1, max_length=4096)] = msgspec.field(name="from")
    replace: bool | None = None
    channel: ChannelId | None = None


class LoadParams(Params, frozen=True):
    """The model to load into the engine, and how; the options mean the same as in ``image.generate``."""

    model: ModelId
    quantization: Literal["auto", "none", "8bit", "4bit"] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    engine: EngineName | None = None
    channel: ChannelId | None = None


class PrepareParams(Params, frozen=True):
    """The model to keep a quantized form of; ``precision`` and ``engine`` mean the same as in ``image.generate``."""

    model: ModelId
    quantization: Literal["8bit", "4bit"]
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    engine: EngineName | None = None
    channel: ChannelId | None = None


class RemoveParams(Params, frozen=True):
    """``prepared``: remove only the model's prepared forms; otherwise they are removed with it."""

    model: ModelId
    prepared: bool | None = None
    dry_run: bool | None = None


class GcParams(Params, frozen=True):
    """``maxBytes``: remove the least recently used models until the cache is within it; absent: only garbage."""

    max_bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    dry_run: bool | None = None


class ModelDefaults(Result, frozen=True):
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str


class ModelLimits(Result, frozen=True):
    """Pixels: each side a multiple of ``multipleOf`` within the bounds."""

    minimum: int
    maximum: int
    multiple_of: int
    max_pixels: int


class ModelSource(Result, frozen=True):
    """A hub repository. ``revision``: the commit of the installed files, else the one that the catalogue names."""

    repository: str
    revision: str | None


class ModelFit(Result, frozen=True):
    """Whether a model fits this machine, at its default size. Bytes; ``available`` takes other daemons' engines into
    account.
    """

    engine: str
    quantization: Literal["none", "8bit", "4bit"]
    fit: Fit
    weights: int
    peak: int
    available: int


class ModelSpeed(Result, frozen=True):
    """A ``speed`` that the model supports with ``engine``, in jobs that actually run at least ``leastSteps`` steps.
    Shorter jobs run at ``exact``.
    """

    engine: str
    speed: Literal["exact", "balanced", "fast"]
    least_steps: int


class PreparedForm(Result, frozen=True):
    """A model as quantized by an engine, kept in the cache: ``engine`` loads it for jobs with that ``quantization``
    and ``precision`` while the model's digest is ``derivedFrom``.
    """

    engine: str
    quantization: Literal["8bit", "4bit"]
    precision: str
    digest: str
    derived_from: str
    bytes: int


class Model(Result, frozen=True):
    """A catalogue entry and its state on this machine. ``runnable``: an engine of this version can draw with it.
    ``max_references``: how many pictures an edit may have; 0 if it cannot edit.
    """

    id: str
    version: str
    display_name: str
    description: str
    tags: list[str]
    license: str
    license_url: str
    commercial_use: bool
    gated: bool
    modalities: list[str]
    family: str
    parameters: int
    download_bytes: int
    classifier_free_guidance: bool
    schedulers: list[str]
    defaults: ModelDefaults
    limits: ModelLimits
    max_references: int
    speeds: list[ModelSpeed]
    source: list[ModelSource]
    installed: bool
    granted: bool
    runnable: bool
    fit: list[ModelFit]
    recommended: ModelFit | None
    prepared: list[PreparedForm]
    digest: str | UnsetType = UNSET
    path: str | UnsetType = UNSET


class ModelsListResult(Result, frozen=True):
    """``free_bytes``: how much space is left for models, if there is a model and the system reports it."""

    models: list[Model]
    free_bytes: int | UnsetType = UNSET


class InstalledResult(Result, frozen=True):
    """A model that is now installed; ``files`` is how many it has."""

    model: str
    digest: str
    bytes: int
    files: int


class VerifyResult(Result, frozen=True):
    model: str
    digest: str
    files: int
    ok: Literal[True] = True


class LoadResult(Result, frozen=True):
    """A model that is loaded in the engine. ``memoryBytes``: what the engine uses with it loaded."""

    model: str
    engine: str
    device: str
    quantization: str
    memory_bytes: int


class PrepareResult(Result, frozen=True):
    """A prepared form that is now in the cache. ``bytes`` of all its files; ``sharedBytes`` of them are the model's
    own.
    """

    model: str
    digest: str
    derived_from: str
    engine: str
    quantization: Literal["8bit", "4bit"]
    precision: str
    bytes: int
    shared_bytes: int


class UnloadResult(Result, frozen=True):
    """``unloaded``: whether there was an idle engine, which has now ended."""

    unloaded: bool


class UsageEntry(Result, frozen=True):
    """``sharedBytes`` of ``bytes`` also belong to another entry; ``lastUsed`` is UTC. A prepared form has
    ``derivedFrom``, its model's digest, and ``quantization``.
    """

    model: str
    digest: str
    bytes: int
    shared_bytes: int
    last_used: str
    in_use: bool
    derived_from: str | UnsetType = UNSET
    quantization: str | UnsetType = UNSET


class UsageResult(Result, frozen=True):
    """``bytes`` is the size of the cache, ``reclaimableBytes`` what collecting everything not in use would free."""

    bytes: int
    reclaimable_bytes: int
    entries: list[UsageEntry]


class RemovedModel(Result, frozen=True):
    """``derivedFrom`` and ``quantization``: for a prepared form."""

    model: str
    digest: str
    derived_from: str | UnsetType = UNSET
    quantization: str | UnsetType = UNSET


class RemovedResult(Result, frozen=True):
    """What was removed, or with ``dryRun`` would be; ``bytes`` is the disk space freed."""

    removed: list[RemovedModel]
    bytes: int


class DownloadProgress(Result, frozen=True):
    """Bytes and files of the whole model; the message of a ``models.download`` channel."""

    model: str
    phase: DownloadPhase
    bytes: int
    total_bytes: int
    files: int
    total_files: int
    bytes_per_second: int
    eta_ms: int | UnsetType = UNSET


class ModelProgress(Result, frozen=True):
    """The message of the channels of ``models.import``, ``verify``, ``load`` and ``prepare``."""

    model: str
    phase: ModelPhase
    bytes: int
    total_bytes: int
