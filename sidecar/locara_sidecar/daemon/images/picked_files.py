"""``host.pickFile`` and ``host.releaseFile``: the session's handles of files that the user picked."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
from msgspec import UNSET

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.host_messages import MAX_PICKED_FILES, PickFileParams, PickFileResult, ReleaseFileParams
from locara_protocol.messages import Empty
from locara_sidecar.capability.authorize import AccessRequest, Picked
from locara_sidecar.daemon.images.resolve import EXTENSIONS

if TYPE_CHECKING:
    from locara_protocol.image_messages import ImageMime
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.capability.files.picked import PickedFile, PickedSource, PickedTarget
    from locara_sidecar.daemon.access.gate import Gate
    from locara_sidecar.daemon.jobs.in_flight import InFlight
    from locara_sidecar.daemon.wire.calls import Call

_ALL = tuple(extension for extensions in EXTENSIONS.values() for extension in extensions)


class PickedFiles:
    """The handlers, and what calls ask for by handle. Used on the event loop's thread."""

    def __init__(self, gate: Gate, in_flight: InFlight) -> None:
        self._gate = gate
        self._in_flight = in_flight
        self._files: dict[str, PickedFile] = {}
        self._coming = 0

    def pick(self, call: Call, params: PickFileParams) -> None:
        """Check a call; the file is opened in a thread, and the answer comes then.

        :raises RpcError: InvalidParams, CapabilityDenied; StorageError with EMFILE for one too many.
        """
        from locara_sidecar.capability.files import picked  # loads ctypes

        picked.check_path(params.path)
        wanted = AccessRequest(picked=(Picked(params.access, os.path.basename(params.path)),))
        grant = self._gate.authorize(call, wanted)
        if len(self._files) + self._coming >= MAX_PICKED_FILES:
            message = f"{MAX_PICKED_FILES} files are picked already; release some."
            raise RpcError(
                "StorageError", message, errno=errno.errorcode[errno.EMFILE], maxPickedFiles=MAX_PICKED_FILES
            )
        self._coming += 1
        self._in_flight.answer(call, partial(self._open, params, grant))

    def release(self, _call: Call, params: ReleaseFileParams) -> Empty:
        """No new call may use that handle. Releasing what is released already, or never was, is no error."""
        file = self._files.pop(params.handle, None)
        if file is not None:
            file.let_go()
        return Empty()

    async def _open(self, params: PickFileParams, grant: Grant) -> PickFileResult:
        from locara_sidecar.capability.files.picked import PickedSource, pick

        try:
            file = await anyio.to_thread.run_sync(partial(pick, grant, params.path, params.access, _ALL))
        finally:
            self._coming -= 1
        handle = f"file-{os.urandom(16).hex()}"
        self._files[handle] = file
        size = file.size if isinstance(file, PickedSource) else UNSET
        return PickFileResult(handle=handle, name=file.name, bytes=size)

    # --- what calls ask for ----------------------------------------------------------------

    def uses(self, output: str | None, sources: dict[str, str]) -> tuple[Picked, ...]:
        """What a call with these handles asks the gate for.

        :param sources: parameter to handle.
        """
        saved = [] if output is None else [Picked("write", self._name(output))]
        return (*saved, *(Picked("read", self._name(handle)) for handle in sources.values()))

    def _name(self, handle: str) -> str:
        file = self._files.get(handle)
        return "unknown" if file is None else file.name

    def target(self, handle: str, mime_type: ImageMime) -> PickedTarget:
        """The file to save to.

        :raises RpcError: InvalidParams.
        """
        at = "$.options.output.handle"
        file = self._find(handle, at)
        from locara_sidecar.capability.files.picked import PickedTarget  # loaded already, where a file was picked

        if not isinstance(file, PickedTarget):
            raise invalid_params(at, f"{file.name} was picked for reading; pick it with access write.")
        allowed = EXTENSIONS[mime_type]
        if os.path.splitext(file.name)[1].lower() not in allowed:
            expected = " or ".join(allowed)
            message = f"The extension of {file.name} must be {expected} for {mime_type}; give its own mimeType."
            raise invalid_params(at, message)
        return file

    def sources(self, handles: dict[str, str]) -> dict[str, PickedSource]:
        """The files to read, by parameter.

        :raises RpcError: InvalidParams.
        """
        if not handles:
            return {}
        from locara_sidecar.capability.files.picked import PickedSource

        found: dict[str, PickedSource] = {}
        for at, handle in handles.items():
            file = self._find(handle, f"{at}.handle")
            if not isinstance(file, PickedSource):
                raise invalid_params(f"{at}.handle", f"{file.name} was picked for writing; pick it with access read.")
            found[at] = file
        return found

    def _find(self, handle: str, at: str) -> PickedFile:
        file = self._files.get(handle)
        if file is None:
            raise invalid_params(at, "No picked file has this handle; it was released, or never picked.")
        return file
