"""Checks what an engine sends. A malicious model or picture may have taken it over, so nothing is believed, kept or
passed on before it is known to be a valid answer to the request.

An engine that sends anything else has violated its protocol and is ended; the job still gets an answer.
"""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING, Any, assert_never, cast

from locara_sidecar.ipc import errors, frames
from locara_sidecar.ipc.framing import MAX_FRAME_BYTES, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from locara_sidecar.daemon.engine_host.request import JobEvent, Result

_TEXT = 4000  # characters of a message
_NAME = 200  # of a device, a version, a word
_ENTRIES = 200  # of a mapping or a list
_SIDE = 1 << 15  # pixels
_MAGIC = {
    "image/png": (b"\x89PNG\r\n\x1a\n", b""),
    "image/jpeg": (b"\xff\xd8\xff", b""),
    "image/webp": (b"RIFF", b"WEBP"),
}
_QUANTIZATIONS = ("none", "8bit", "4bit")
_PRECISIONS = ("float32", "bfloat16", "float16")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}", re.ASCII)
_COMPONENT = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_LOGGER = re.compile(r"[a-z_]{1,40}(?:\.[a-z_]{1,40}){0,3}", re.ASCII)
_LOGGERS = 100
_FIELDS = 32  # of a log record
_FIELD_TEXT = 8000  # characters of all of them; a line of the log has 8192 bytes at most
_BURST = 500  # log records
_RATE = 20.0  # log records a second once the burst is used up: the log has limited space


def frame_bytes(spec: frames.AnySpec | None) -> int:
    """Return the longest frame, in bytes, that an engine has to send for a job: one of its images at zero compression,
    or a preview.
    """
    if not isinstance(spec, frames.JobSpec):
        return 1 << 20
    pixels = spec.width * spec.height or spec.model.sides.max_pixels or _SIDE * _SIDE
    return min((1 << 20) + 4 * pixels + spec.preview.max_bytes, MAX_FRAME_BYTES)


def check_ready(event: frames.Ready, engine: str) -> None:
    """Check the answer to a start of ``engine``.

    :raises FrameError: if it is not one.
    """
    _expect(event.engine == engine, "it is another engine")
    _text("device", event.device, _NAME)
    _text("note", event.note or "", _TEXT)
    if (found := event.sandbox) is not None:
        _text("sandbox", found.kind, _NAME)
        _text("sandbox", found.reason, _TEXT)
        _expect(len(found.details) <= _ENTRIES, "its sandbox has too many details")
        for name, word in found.details.items():
            _text("sandbox", name, _NAME)
            _text("sandbox", word, _TEXT)


class Screen:
    """Checks the events of one job, in their order."""

    def __init__(self, spec: frames.AnySpec, engine: str) -> None:
        self._spec = spec
        self._engine = engine
        self._images = 0  # images sent so far

    def check(self, event: JobEvent | Result | frames.Heartbeat | frames.Failed | frames.Cancelled) -> None:
        """Check one event.

        :raises FrameError: if ``event`` cannot be true of this job.
        """
        match event:
            case frames.Heartbeat() | frames.Cancelled():
                pass
            case frames.PhaseStarted():
                self._check_number(event.image)
                _expect(event.phase not in ("queued", "saving"), "a phase is not the engine's")
                _expect(0 <= event.fraction <= 1, "a fraction is out of range")
            case frames.Step():
                self._check_step(event, self._job())
            case frames.Image():
                self._check_image(event, self._job())
            case frames.Done():
                self._check_done(event, self._job())
            case frames.Loaded():
                _expect(isinstance(self._spec, frames.LoadSpec), "nothing was to be loaded")
                self._check_ran(event.engine, event.device, event.quantization, event.precision)
                _amount("memory", event.memory)
            case frames.Prepared():
                self._check_prepared(event)
            case frames.Failed():
                wrong = errors.wrong_with(event.kind, event.message, event.data)
                _expect(wrong is None, wrong or "")
            case _:
                assert_never(event)

    def _job(self) -> frames.JobSpec:
        _expect(isinstance(self._spec, frames.JobSpec), "no image was asked for")
        assert isinstance(self._spec, frames.JobSpec)
        return self._spec

    def _check_number(self, image: int) -> None:
        count = self._spec.count if isinstance(self._spec, frames.JobSpec) else 1
        _expect(1 <= image <= count, "there is no such image")

    def _check_step(self, event: frames.Step, spec: frames.JobSpec) -> None:
        self._check_number(event.image)
        _expect(1 <= event.step <= event.steps <= spec.steps, "there is no such step")
        if (preview := event.preview) is None:
            return
        asked = spec.preview
        _expect(asked.mode != "off", "no preview was asked for")
        _expect(preview.mime_type == asked.mime_type, "a preview is of another type")
        _expect(len(preview.data) <= asked.max_bytes, "a preview is too large")
        _expect(1 <= preview.width <= asked.max_side and 1 <= preview.height <= asked.max_side, "a preview is too wide")
        _check_bytes(preview.data, preview.mime_type, preview.width, preview.height)

    def _check_image(self, event: frames.Image, spec: frames.JobSpec) -> None:
        self._images += 1
        _expect(event.image == self._images <= spec.count, "an image came out of order")
        _expect(event.seed == spec.seed + event.image - 1, "an image has another seed")
        _expect(event.mime_type == spec.output.mime_type, "an image is of another type")
        self._check_size(event.width, event.height, spec)
        _check_bytes(event.data, event.mime_type, event.width, event.height)

    def _check_size(self, width: int, height: int, spec: frames.JobSpec) -> None:
        if spec.width and spec.height:
            _expect((width, height) == (spec.width, spec.height), "an image has another size")
        _expect(1 <= width <= _SIDE and 1 <= height <= _SIDE, "an image has no size")

    def _check_done(self, event: frames.Done, spec: frames.JobSpec) -> None:
        _expect(self._images == spec.count, "images are missing")
        settled = event.settled
        self._check_ran(event.engine, event.device, settled.quantization, settled.precision)
        self._check_size(settled.width, settled.height, spec)
        for word in (settled.tiling, settled.speed):
            _expect(_WORD.fullmatch(word) is not None, "an option is not a word")
        for seconds in (event.load, event.encode, event.denoise, event.decode):
            _expect(0 <= seconds < 1e8, "a time is not a number")
        _amount("peak memory", event.peak_memory)
        _amount("peak memory", event.peak_allocated or 0)
        _expect(len(event.warnings) <= _ENTRIES, "there are too many warnings")
        for kind, message in event.warnings:
            _expect(_WORD.fullmatch(kind) is not None, "a warning's kind is not a word")
            _text("warning", message, _TEXT)

    def _check_ran(self, engine: str, device: str, quantization: str, precision: str) -> None:
        model = self._spec.model
        _expect(engine == self._engine, "it is another engine")
        _text("device", device, _NAME)
        allowed = _QUANTIZATIONS if model.quantization == "auto" else (model.quantization,)
        _expect(quantization in allowed, "another quantization was asked for")
        allowed = _PRECISIONS if model.precision == "auto" else (model.precision,)
        _expect(precision in allowed, "another precision was asked for")

    def _check_prepared(self, event: frames.Prepared) -> None:
        _expect(isinstance(self._spec, frames.PrepareSpec), "nothing was to be prepared")
        self._check_ran(self._engine, "", event.quantization, event.precision)
        _expect(event.quantization != "none", "nothing was quantized")
        _expect(len(event.components) <= _ENTRIES, "there are too many components")
        _expect(all(_COMPONENT.fullmatch(name) for name in event.components), "a component has no name")
        said = event.there, event.quantization, event.precision
        known = {(form.path, form.quantization, form.precision) for form in self._spec.model.prepared}
        _expect(event.there is None or said in known, "there is no such form")


def _check_bytes(data: bytes, mime_type: str, width: int, height: int) -> None:
    """Check that a file has its type's signature, and a PNG the right size in its header."""
    begins, then = _MAGIC[mime_type]
    _expect(data.startswith(begins) and data[8:].startswith(then), "a file is of a different type than it says")
    if mime_type == "image/png":
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        _expect(size == (width, height), "a file has a different size than it says")


class LogScreen:
    """Makes an engine's log records fit for our log: known levels, few loggers, plain fields, a limited number.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loggers: set[str] = set()  # the process keeps each name forever
        self._clock = clock
        self._tokens, self._last, self._dropped = float(_BURST), clock(), 0

    def clean(self, record: frames.Log, words: Callable[[str], str]) -> list[frames.Log]:
        """Return the record as it may be logged, after a note on earlier ones over the limit; nothing if it is over it.

        :param words: applied to each text.
        """
        now = self._clock()
        self._tokens, self._last = min(_BURST, self._tokens + (now - self._last) * _RATE), now
        if self._tokens < 1:
            self._dropped += 1
            return []
        self._tokens -= 1
        told = [self._cleaned(record, words)]
        if self._dropped:
            left_out = f"{self._dropped} log records of the engine were dropped"
            told.insert(0, frames.Log(level="warning", logger="engine", msg=left_out))
            self._dropped = 0
        return told

    def _cleaned(self, record: frames.Log, words: Callable[[str], str]) -> frames.Log:
        name = record.logger if words(record.logger) == record.logger else "unnamed"
        if name not in self._loggers:
            if len(self._loggers) < _LOGGERS and _LOGGER.fullmatch(name):
                self._loggers.add(name)
            else:
                name = "unnamed"
        fields = dict(_cleaned_fields(record.fields, words))
        level = record.level if record.level in ("debug", "info", "warning", "error") else "info"
        return frames.Log(level=level, logger=name, msg=words(record.msg[:_TEXT]), fields=fields)


def _cleaned_fields(fields: dict[str, Any], words: Callable[[str], str]) -> Iterator[tuple[str, Any]]:
    """Return the plain fields, as far as there is room: searching a text for the prompt takes time."""
    room = _FIELD_TEXT
    for key, value in itertools.islice(fields.items(), _FIELDS):
        if not _WORD.fullmatch(key.replace("_", "")) or words(key) != key:
            continue
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        if len(items) > _ENTRIES or not all(errors.is_plain(item, 0) for item in items):
            continue
        room -= len(key) + sum(len(item) if isinstance(item, str) else 1 for item in items)
        if room < 0:
            return
        cleaned = [words(item) if isinstance(item, str) else item for item in items]
        yield key, cleaned if isinstance(value, list) else cleaned[0]


def _amount(what: str, value: int) -> None:
    _expect(0 <= value < 1 << 53, f"{what} is not an amount")


def _text(what: str, value: str, most: int) -> None:
    _expect(len(value) <= most, f"{what} is too long")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise FrameError(otherwise)
