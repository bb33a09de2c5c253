"""The typed messages of ``jobs.*``; for what all messages share, see :mod:`locara_protocol.messages`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from locara_protocol.image_messages import DiffusionStep
from locara_protocol.messages import ChannelId, Params, Result
from locara_protocol.model_messages import ModelProgress

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JobId = Annotated[str, Meta(min_length=1, max_length=256)]


class JobInfo(Result, frozen=True):
    """A job that is waiting, running or has ended.

    ``last``: the last message of an image job, with the latest preview of that image; ``lastProgress``: that of
    ``models.load`` or ``models.prepare``. ``prompt``, ``width`` and ``height`` are an image job's; an edit of its
    source's own size has no size.
    """

    job_id: str
    method: str
    state: JobState
    request_id: int | str
    channel: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET
    last: DiffusionStep | UnsetType = UNSET
    last_progress: ModelProgress | UnsetType = UNSET


class JobsListResult(Result, frozen=True):
    """First jobs that are running or waiting, in queue order; then those that have ended, most recent first."""

    jobs: list[JobInfo]


class AttachParams(Params, frozen=True):
    """The job whose further messages are to be sent on ``channel``."""

    job_id: JobId
    channel: ChannelId


class AttachResult(Result, frozen=True):
    """The job's state at that moment."""

    job_id: str
    state: JobState


class JobResultParams(Params, frozen=True):
    job_id: JobId


class JobResult(Result, frozen=True):
    """The result of the job's own call, member by member; its error is returned as an error."""
