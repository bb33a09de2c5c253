"""Tauri's channel frames, and the messages they carry."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from locara_protocol.image_messages import DiffusionStep
from locara_protocol.messages import Result
from locara_protocol.model_messages import DownloadProgress, ModelProgress


class ChannelFrame(Result, frozen=True):
    """Base of Tauri's frame around one message; ``index`` starts at 0 and has no gaps."""

    channel: int
    index: int


class ChannelMessage(ChannelFrame, frozen=True):
    """A frame of an ``image.generate`` or ``image.edit`` channel."""

    message: DiffusionStep


class DownloadMessage(ChannelFrame, frozen=True):
    """A frame of a ``models.download`` channel."""

    message: DownloadProgress


class ModelMessage(ChannelFrame, frozen=True):
    """A frame of a ``models.import``, ``models.verify`` or ``models.load`` channel."""

    message: ModelProgress


Streamed = DiffusionStep | DownloadProgress | ModelProgress
"""What a channel may carry."""

FRAMES: dict[type[Streamed], Any] = {
    DiffusionStep: ChannelMessage,
    DownloadProgress: DownloadMessage,
    ModelProgress: ModelMessage,
}
"""The frame of each kind of message."""


class ChannelEnd(Result, frozen=True):
    """The last frame of a channel; ``index`` equals the number of messages sent."""

    channel: int
    index: int
    end: Annotated[bool, Meta(extra_json_schema={"const": True})] = True
