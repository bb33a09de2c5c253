"""The method table behind the router, ``rpc.discover``, the schemas and the conformance harness.

To add a method, add a row here and a function to the daemon's handler table; the test suite fails for a row without a
handler and for a handler without a row.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from locara_protocol import channel_messages as channels
from locara_protocol import host_messages as host
from locara_protocol import image_messages as images
from locara_protocol import job_messages as jobs
from locara_protocol import messages as m
from locara_protocol import model_messages as models

Need = Literal["none", "generate", "edit", "pick", "model", "download", "manage", "import"]
"""What a method needs from the manifest and the host; the gate has one rule for each word. ``none`` has to be stated.
``generate``: a modality, a model and write access to where the picture goes; ``edit``: also read access to where
images come from; ``pick``: picked files are declared; ``model``: the model is declared; ``download``: also, the host
allows downloads, and so a growing cache; ``manage``: the host allows managing the model cache; ``import``: both
``manage`` and ``model``.
"""

_ENGINE = (
    "RequestCancelled",
    "CapabilityDenied",
    "ModelNotFound",
    "ModelNotInstalled",
    "ModelIncomplete",
    "IntegrityError",
    "InsufficientMemory",
    "EngineUnavailable",
    "EngineCrashed",
    "EngineStalled",
    "QueueFull",
)
_DRAWING = (*_ENGINE, "InsufficientDisk", "StorageError", "InvalidOutput")
_DOWNLOADING = (
    "RequestCancelled",
    "CapabilityDenied",
    "ModelNotFound",
    "ModelIncomplete",
    "IntegrityError",
    "QueueFull",
)


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One request method of the contract.

    :param params: its parameter type; result: its result type.
    :param errors: kinds (keys of ``errors.CODES``) in addition to those that any request may get.
    :param need: the capability rule that the gate applies.
    :param notification: the name of the messages it streams to its channel, if it is a long call.
    :param before_initialize: whether it is served before ``initialize``.
    :param in_batch: whether it is allowed in a batch.
    """

    name: str
    summary: str
    params: type[m.Params]
    result: type[m.Result]
    errors: tuple[str, ...] = ()
    need: Need
    notification: str | None = None
    before_initialize: bool = False
    in_batch: bool = True


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One notification; ``direction`` says who sends it."""

    name: str
    summary: str
    params: type[m.Params] | type[m.Result]
    direction: Literal["host", "sidecar"]


class DiscoverResult(m.Result, frozen=True):
    """The OpenRPC document itself (the OpenRPC meta-schema describes its members)."""


_METHODS = (
    Method(
        name="initialize",
        summary="Open the session: versions, the app's manifest, the host's folder grants.",
        params=m.InitializeParams,
        result=m.InitializeResult,
        errors=("UnsupportedProtocolVersion",),
        need="none",
        before_initialize=True,
        in_batch=False,
    ),
    Method(
        name="ping",
        summary="Whether the daemon is alive, what the engine is doing and how many jobs there are.",
        params=m.NoParams,
        result=m.PingResult,
        need="none",
        before_initialize=True,
    ),
    Method(
        name="rpc.discover",
        summary="The OpenRPC document of this server.",
        params=m.NoParams,
        result=DiscoverResult,
        need="none",
        before_initialize=True,
    ),
    Method(
        name="system.info",
        summary="Platform, memory, engines, sandbox, cache folder.",
        params=m.NoParams,
        result=m.SystemInfo,
        need="none",
    ),
    Method(
        name="host.pickFile",
        summary="A handle for a file that the user picked in a dialog. Never forwarded from a web view.",
        params=host.PickFileParams,
        result=host.PickFileResult,
        errors=("CapabilityDenied", "StorageError"),
        need="pick",
    ),
    Method(
        name="host.releaseFile",
        summary="Release a handle: no new call may use it. Never forwarded from a web view.",
        params=host.ReleaseFileParams,
        result=m.Empty,
        need="none",
    ),
    Method(
        name="jobs.list",
        summary="The app's jobs that are waiting, running or ended recently, each with its last state and preview.",
        params=m.NoParams,
        result=jobs.JobsListResult,
        need="none",
    ),
    Method(
        name="jobs.attach",
        summary="Receive a job's further messages on another channel, for example after a web view reloads.",
        params=jobs.AttachParams,
        result=jobs.AttachResult,
        need="none",
    ),
    Method(
        name="jobs.result",
        summary="The answer to a job that ended recently.",
        params=jobs.JobResultParams,
        result=jobs.JobResult,
        errors=tuple(dict.fromkeys((*_DRAWING, "InvalidImage"))),
        need="none",
    ),
    Method(
        name="image.generate",
        summary="Text to image, with live previews on a channel.",
        params=images.GenerateParams,
        result=images.GenerateResult,
        errors=_DRAWING,
        need="generate",
        notification="DiffusionStep",
    ),
    Method(
        name="image.edit",
        summary="Change an image: as a whole, where a mask is white, or as an instruction says.",
        params=images.EditParams,
        result=images.GenerateResult,
        errors=(*_DRAWING, "InvalidImage"),
        need="edit",
        notification="DiffusionStep",
    ),
    Method(
        name="image.cancel",
        summary="Cancel a job by its id.",
        params=images.CancelJobParams,
        result=images.CancelJobResult,
        need="none",
    ),
    Method(
        name="audit.capabilityLog",
        summary="The gate's decisions about this app's calls, allowed and denied.",
        params=m.CapabilityLogParams,
        result=m.CapabilityLogResult,
        need="none",
    ),
    Method(
        name="models.list",
        summary="The models that the app's manifest declares: what they are, whether they are installed and fit.",
        params=m.NoParams,
        result=models.ModelsListResult,
        errors=("StorageError",),
        need="none",
    ),
    Method(
        name="models.get",
        summary="One model of the catalogue.",
        params=models.ModelParams,
        result=models.Model,
        errors=("CapabilityDenied", "ModelNotFound", "StorageError"),
        need="model",
    ),
    Method(
        name="models.download",
        summary="Download a model into the shared cache; resumes an interrupted download.",
        params=models.ModelWorkParams,
        result=models.InstalledResult,
        errors=(
            *_DOWNLOADING,
            "EngineUnavailable",
            "DownloadFailed",
            "LicenseNotAccepted",
            "InsufficientDisk",
            "StorageError",
        ),
        need="download",
        notification="DownloadProgress",
    ),
    Method(
        name="models.verify",
        summary="Hash an installed model's files again and compare.",
        params=models.ModelWorkParams,
        result=models.VerifyResult,
        errors=(*_DOWNLOADING, "ModelNotInstalled", "StorageError"),
        need="model",
        notification="ModelProgress",
    ),
    Method(
        name="models.import",
        summary="Import a model from a folder or a Hugging Face cache into the shared cache.",
        params=models.ImportParams,
        result=models.InstalledResult,
        errors=(*_DOWNLOADING, "EngineUnavailable", "InsufficientDisk", "StorageError"),
        need="import",
        notification="ModelProgress",
    ),
    Method(
        name="models.load",
        summary="Have the engine load a model ahead of its first job.",
        params=models.LoadParams,
        result=models.LoadResult,
        errors=_ENGINE,
        need="model",
        notification="ModelProgress",
    ),
    Method(
        name="models.prepare",
        summary="Save a model in the shared cache in quantized form, so that it loads faster.",
        params=models.PrepareParams,
        result=models.PrepareResult,
        errors=(*_ENGINE, "InsufficientDisk", "StorageError"),
        need="download",
        notification="ModelProgress",
    ),
    Method(
        name="models.unload",
        summary="Stop an idle engine and free its memory.",
        params=m.NoParams,
        result=models.UnloadResult,
        need="none",
    ),
    Method(
        name="models.remove",
        summary="Remove a model from the shared cache.",
        params=models.RemoveParams,
        result=models.RemovedResult,
        errors=("CapabilityDenied", "ModelNotFound", "ModelNotInstalled", "StorageError"),
        need="manage",
    ),
    Method(
        name="models.usage",
        summary="The disk space that shared-cache models use; other apps' only where the host allows managing it.",
        params=m.NoParams,
        result=models.UsageResult,
        errors=("StorageError",),
        need="none",
    ),
    Method(
        name="models.gc",
        summary="Remove what no model needs and, down to maxBytes, the least recently used models.",
        params=models.GcParams,
        result=models.RemovedResult,
        errors=("CapabilityDenied", "StorageError"),
        need="manage",
    ),
    Method(
        name="shutdown",
        summary="Cancel all jobs and get ready for exit.",
        params=m.NoParams,
        result=m.Empty,
        need="none",
        before_initialize=True,
        in_batch=False,
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
"""Request methods by name, in the order of the documentation."""

_NOTIFICATIONS = (
    Notification(name="initialized", summary="Accepted and ignored.", params=m.NoParams, direction="host"),
    Notification(
        name="notifications/initialized", summary="Accepted and ignored.", params=m.NoParams, direction="host"
    ),
    Notification(
        name="exit", summary="End the process: status 0 after shutdown, else 1.", params=m.NoParams, direction="host"
    ),
    Notification(name="$/cancelRequest", summary="Cancel a request.", params=m.CancelRequestParams, direction="host"),
    Notification(name="$/cancel_request", summary="Cancel a request.", params=m.CancelRequestParams, direction="host"),
    Notification(
        name="notifications/cancelled", summary="Cancel a request.", params=m.CancelledParams, direction="host"
    ),
    Notification(
        name="DiffusionStep",
        summary="Progress of image.generate and image.edit, in Tauri's channel frame.",
        params=channels.ChannelMessage,
        direction="sidecar",
    ),
    Notification(
        name="DownloadProgress",
        summary="Progress of models.download, at most ten times a second.",
        params=channels.DownloadMessage,
        direction="sidecar",
    ),
    Notification(
        name="ModelProgress",
        summary="Progress of models.import, verify, load and prepare, at most ten times a second.",
        params=channels.ModelMessage,
        direction="sidecar",
    ),
)

NOTIFICATIONS: dict[str, Notification] = {note.name: note for note in _NOTIFICATIONS}
"""Notifications of both directions by name."""

ANY_REQUEST_ERRORS = (
    "ParseError",
    "InvalidRequest",
    "MethodNotFound",
    "InvalidParams",
    "NotInitialized",
    "InsufficientMemory",
    "InternalError",
)
"""Kinds of error that any request may get."""
