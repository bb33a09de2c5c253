"""Saves one job's finished images to disk or into the answer, one at a time and in order."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread
from msgspec import UNSET

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import ImageResult
from locara_sidecar.capability.files.confined import ConfinedFolder, Saved
from locara_sidecar.daemon.images.resolve import Output, file_name
from locara_sidecar.daemon.wire.calls import unexpected
from locara_sidecar.daemon.wire.user_files import Handover, UserFiles, close, wait_for
from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.capability.files.picked import PickedTarget

log = logging.getLogger("locara.saving")


class Saver:
    """Takes images from the engine's events and publishes each before it looks at the next.

    :param target: a picked file to save to, instead of the grant's folder.
    :param on_saving: called with the 1-based number of each image when its saving begins.
    :param cancelled: called before each image is published; what is published stays.
    :param files: how the job's cancel ends waits for files.
    """

    def __init__(
        self,
        *,
        grant: Grant,
        output: Output,
        target: PickedTarget | None = None,
        count: int,
        on_saving: Callable[[int], None],
        cancelled: Callable[[], bool],
        files: UserFiles,
    ) -> None:
        self._files = files
        self._left = False  # whether an abandoned thread still uses the folder, and will close it
        self._grant = grant
        self._output = output
        self._target = target
        self._count = count
        self._on_saving = on_saving
        self._cancelled = cancelled
        self._stamp = time.strftime("%Y%m%d-%H%M%S")
        self._folder: ConfinedFolder | None = None
        self._send, self._receive = anyio.create_memory_object_stream[frames.Image](math.inf)
        self._finished = anyio.Event()
        self._running = self._closed = False
        self.images: list[ImageResult] = []
        self.failure: RpcError | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.seconds = 0.0

    async def open(self) -> None:
        """Open the granted folder before any work is done, so that no picture is drawn for nothing.

        :raises RpcError: StorageError or InvalidParams.
        """
        if self._target is not None:
            await self._of_target(self._target, self._target.check)
        if self._grant.folder is not None:
            self._folder = await wait_for(partial(ConfinedFolder, self._grant.folder), _close)

    def put(self, image: frames.Image) -> None:
        """Queue a finished image; call it on the event loop."""
        self._send.send_nowait(image)

    async def run(self) -> None:
        """Publish queued images until :meth:`finish`; never raises: see :attr:`failure`."""
        if self._closed:  # the job failed before this task started
            return
        self._running = True
        try:
            async for image in self._receive:
                if not self._cancelled():
                    await self._publish(image)
        except RpcError as error:
            self.failure = error
            self.on_failure()
        except Exception as error:  # this is a separate task: its caller checks the failure
            log.exception("saving failed unexpectedly")
            self.failure = unexpected("image.generate", error)
            self.on_failure()
        finally:
            self._finished.set()

    async def finish(self) -> None:
        """Signal that there are no more images, and wait until the last is published."""
        self._send.close()
        await self._finished.wait()

    async def aclose(self) -> None:
        """Release everything, whatever happened."""
        self._closed = True
        self._send.close()
        folder, self._folder = self._folder, None
        if self._running:
            await self._finished.wait()
        self._receive.close()
        if folder is not None and not self._left:
            await close([folder.close])

    async def _publish(self, image: frames.Image) -> None:
        began = time.monotonic()
        self._on_saving(image.image)
        saved: Saved | None = None
        with self._files.heeding():
            if self._folder is not None:
                saved = await self._save(self._folder, image)
            if self._target is not None:
                hand = Handover()
                put = partial(self._target.save, image.data, cancelled=self._cancelled, begin=hand.begin)
                await self._of_target(self._target, put, hand)
        await self._tell(image, saved)
        self.seconds += time.monotonic() - began

    async def _save(self, folder: ConfinedFolder, image: frames.Image) -> Saved:
        name = file_name(self._output, stamp=self._stamp, seed=image.seed, image=image.image, count=self._count)
        hand = Handover()
        save = partial(
            folder.save, name, image.data, self._output.on_conflict, cancelled=self._cancelled, begin=hand.begin
        )
        try:
            return await wait_for(save, lambda _: folder.close(), hand)
        except anyio.get_cancelled_exc_class():
            self._left = hand.started
            raise

    async def _of_target(
        self, target: PickedTarget, function: Callable[[], None], hand: Handover | None = None
    ) -> None:
        """Call something on the picked file to save to; the file stays open for the thread even if nobody waits
        for it.
        """
        target.hold()
        hand = hand or Handover()
        left = False

        def late(_: None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                if anyio.from_thread.run_sync(target.leave):
                    target.close()

        try:
            await wait_for(function, late, hand)
        except anyio.get_cancelled_exc_class():
            left = hand.started
            raise
        finally:
            if not left and target.leave():
                await close([target.close])

    async def _tell(self, image: frames.Image, saved: Saved | None) -> None:
        """Record that one more image is in place."""
        self.images.append(
            ImageResult(
                mime_type=image.mime_type,
                width=image.width,
                height=image.height,
                bytes=len(image.data),
                sha256=await anyio.to_thread.run_sync(_sha256, image.data),
                seed=image.seed,
                path=UNSET if saved is None else saved.path,
                root=UNSET if saved is None else self._output.root,
                relative_path=UNSET if saved is None else saved.relative_path,
                handle=UNSET if self._output.handle is None else self._output.handle,
                data=_base64(image.data) if self._output.inline else UNSET,
            )
        )


def _close(folder: ConfinedFolder | None) -> None:
    if folder is not None:
        folder.close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode("ascii")
