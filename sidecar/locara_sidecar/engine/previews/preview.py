"""Send previews: limit how often they are made and how many bytes they take, and keep all frames in order.

The small picture of a step is decoded on the sampling thread (``engine/job.py``) and encoded here on a separate thread,
so that compression does not slow sampling down.
"""

from __future__ import annotations

import io
import math
import threading
from collections import deque
from typing import TYPE_CHECKING

from PIL import Image

from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.image_messages import ImageMime, PreviewDecoder

    Picture = tuple[Image.Image, PreviewDecoder]

_SHARE = 0.03  # of the sampling time, for previews in mode "auto"
BLINK = 0.008
"""Seconds that a preview may always add to a step: half a screen frame, which nobody notices."""
_RECENT = 3  # previews; the cheapest of them estimates the cost without interference
_SCALES = (1.0, 0.75, 0.56, 0.42, 0.31, 0.23, 0.17, 0.12, 0.08, 0.06)
_QUALITIES = (75, 50, 30)
_COLOURS = (0, 64, 16)  # PNG palette sizes; 0 means true colour
_SMALLEST = 16  # pixels, longest side
_PATIENCE = 0.05  # seconds that the sampling thread waits for the encoder at a phase change
_MOST_WAITING = 2  # pictures; beyond this the encoder skips the older ones


class PreviewBudget:
    """Decides whether another preview fits the budget: on average 3 % of a step or :data:`BLINK`, whichever is more.

    A preview that costs less than that is never skipped, however fast the steps are. The first preview of a job is
    always made and not counted, since it warms up what the others use. Times in seconds.
    """

    def __init__(self) -> None:
        self._sampled = self._spent = 0.0
        self._steps = 0
        self._costs: deque[float] = deque(maxlen=_RECENT)
        self._made = 0

    def sampled(self, seconds: float) -> None:
        """Record the duration of a step, without its preview."""
        self._sampled += seconds
        self._steps += 1

    def spent(self, seconds: float) -> None:
        """Record how long a preview took on the sampling thread.

        The cheapest recent one is what counts: on a busy machine the thread may be kept waiting in the middle of a
        preview for a hundred times what that costs.
        """
        self._costs.append(seconds)
        self._made += 1
        if self._made > 1:
            self._spent += min(self._costs)

    def allows(self) -> bool:
        """Whether one more preview fits, at the cost of the cheapest recent one."""
        cost = min(self._costs) if self._made > 1 else 0.0
        return self._spent + cost <= max(_SHARE * self._sampled, BLINK * self._steps)


class PreviewEncoder:
    """Encodes the pictures of one job within a byte budget.

    It tries a ladder of scales with several qualities each. Since the pictures of a job are alike, each one starts at
    the rung where the last one fitted.
    """

    def __init__(self, mime_type: ImageMime, max_bytes: int) -> None:
        self._mime_type: ImageMime = mime_type
        self._max_bytes = max_bytes
        self._rung = 0

    def encode(self, picture: Image.Image, decoder: PreviewDecoder) -> frames.Preview | None:
        """Encode ``picture`` (RGB) within the byte budget, with its actual size. None if not even 16 pixels fit."""
        rungs = [(scale, quality) for scale in _SCALES for quality in range(len(_QUALITIES))]
        rung = min(self._rung, len(rungs) - 1)
        while rung < len(rungs):
            scale, quality = rungs[rung]
            data, size = self._try(picture, scale, quality)
            if len(data) <= self._max_bytes:
                small = len(data) * 2 < self._max_bytes
                self._rung = max(0, rung - 1) if small else rung
                return self._preview(data, size, decoder)
            rung += 1
            if len(data) > 2 * self._max_bytes:  # skip to the scale where the pixel count is about right
                target = max(size) / max(picture.size) * math.sqrt(1.5 * self._max_bytes / len(data))
                rung = next((i for i in range(rung, len(rungs)) if rungs[i][0] <= target), max(rung, len(rungs) - 1))
        grey = picture.convert("L").convert("RGB")
        data, size = self._try(grey, 0.0, len(_QUALITIES) - 1)
        return self._preview(data, size, decoder) if len(data) <= self._max_bytes else None

    def _preview(self, data: bytes, size: tuple[int, int], decoder: PreviewDecoder) -> frames.Preview:
        return frames.Preview(data=data, mime_type=self._mime_type, width=size[0], height=size[1], decoder=decoder)

    def _try(self, picture: Image.Image, scale: float, quality: int) -> tuple[bytes, tuple[int, int]]:
        longest = max(picture.size)
        side = max(min(longest, _SMALLEST), round(longest * scale))
        if side < longest:
            size = (max(1, round(picture.width * side / longest)), max(1, round(picture.height * side / longest)))
            picture = picture.resize(size, Image.Resampling.BOX)
        out = io.BytesIO()
        match self._mime_type:
            case "image/png":
                colours = _COLOURS[quality]
                if colours:
                    picture = picture.quantize(colours, Image.Quantize.FASTOCTREE)
                picture.save(out, "PNG", compress_level=6)
            case "image/jpeg":
                picture.save(out, "JPEG", quality=_QUALITIES[quality], optimize=True)
            case "image/webp":
                picture.save(out, "WEBP", quality=_QUALITIES[quality], method=2)
        return out.getvalue(), picture.size


class PreviewSender:
    """Sends a job's frames in the order they were put, encoding previews on its own thread.

    Each step gets exactly one frame. While the thread is more than one step behind, the older frames are sent without
    their preview.
    """

    def __init__(self, send: Callable[[frames.Event], None], spec: frames.PreviewSpec) -> None:
        self._send = send
        self._encoder = PreviewEncoder(spec.mime_type, spec.max_bytes)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[frames.Event, Picture | None]] = deque()
        self._pictures = 0  # number of pictures in the queue
        self._busy = False
        self._ending = False
        self._encoding = True
        self.failed = False
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
        self._thread.start()

    def put(self, frame: frames.Event, picture: Picture | None = None) -> None:
        """Send ``frame`` after the frames before it; ``picture`` only with a Step. Call this from one thread only.

        Without a picture the frame is sent before this returns, unless the encoder is far behind: the next thing to run
        may be native code that crashes or hangs, and then the phase should be known. With a picture this waits up to
        :data:`BLINK` for an encoder that is behind, because steps may be faster than it.
        """
        with self._changed:
            if picture is None:
                direct = self._changed.wait_for(self._idle, _PATIENCE)
            else:
                direct = False
                self._changed.wait_for(lambda: self._pictures < _MOST_WAITING, BLINK)
        if direct:
            self._send(frame)
            return
        with self._changed:
            self._waiting.append((frame, picture))
            self._pictures += picture is not None
            self._changed.notify_all()

    def finish(self, *, encode: bool = True) -> None:
        """Wait until everything is sent. Without ``encode`` no more previews are made."""
        with self._changed:
            self._ending = True
            self._encoding = encode
            self._changed.notify_all()
        self._thread.join()

    def _idle(self) -> bool:
        return not self._waiting and not self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting and not self._ending:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._busy = True
                frame, picture = self._waiting.popleft()
                self._pictures -= picture is not None
                encode = self._encoding and self._pictures < _MOST_WAITING
                self._changed.notify_all()
            if picture is not None and encode and isinstance(frame, frames.Step):
                frame = self._with_preview(frame, picture)
            self._send(frame)

    def _with_preview(self, step: frames.Step, picture: Picture) -> frames.Step:
        try:
            preview = self._encoder.encode(*picture)
        except Exception:  # noqa: BLE001  a preview never fails a job
            self.failed = True
            return step
        return frames.Step(job=step.job, image=step.image, step=step.step, steps=step.steps, preview=preview)
