"""``host.pickFile`` and ``host.releaseFile``: the session's handles of files that the user picked."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from msgspec import UNSET

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.host_messages import MAX_PICKED_FILES, PickFileParams, PickFileResult, ReleaseFileParams
from locara_protocol.messages import Empty
from locara_sidecar.capability.authorize import AccessRequest, Picked
from locara_sidecar.daemon.access.sizes import MAX_INLINE_IMAGE_BYTES
from locara_sidecar.daemon.images.resolve import EXTENSIONS
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.daemon.wire.user_files import Handover, UserFiles, close, wait_for

if TYPE_CHECKING:
    from locara_protocol.image_messages import ImageMime
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.capability.descriptors import DescriptorSocket
    from locara_sidecar.capability.files.picked import PickedFile, PickedSource, PickedTarget
    from locara_sidecar.daemon.access.gate import Gate
    from locara_sidecar.daemon.jobs.in_flight import InFlight
    from locara_sidecar.daemon.wire.calls import Call

_ALL = tuple(extension for extensions in EXTENSIONS.values() for extension in extensions)


MAX_SENT_BYTES = 64 * 1024 * 1024
"""Total limit for picked files whose bytes came in a call: they are kept in memory."""


class PickedFiles:
    """The handlers, and the lookup of handles for other calls. Used on the event loop's thread.

    :param descriptors: the socket on which the host sends open files; None if it gave none at spawn.
    """

    def __init__(self, gate: Gate, in_flight: InFlight, descriptors: DescriptorSocket | None) -> None:
        self._gate = gate
        self._descriptors = descriptors
        self._in_flight = in_flight
        self._files: dict[str, PickedFile] = {}
        self._coming = 0

    def pick(self, call: Call, params: PickFileParams) -> None:
        """Check a call; the file is then opened in a thread, and the answer follows.

        :raises RpcError: InvalidParams, CapabilityDenied; StorageError with EMFILE for one too many.
        """
        try:
            name = _check_form(params)
        except RpcError as error:
            self._refuse_form(call, error, params.descriptor)
            return
        fd = self._taken(params.descriptor)
        try:
            grant = self._gate.authorize(call, AccessRequest(picked=(Picked(params.access, name),)))
            self._check_room(0 if params.data is None else len(params.data))
        except RpcError as error:
            if fd is None:
                raise
            self._in_flight.answer(call, partial(_refuse, error, fd))  # sent for this call, so closed with it
            return
        self._coming += 1
        files = UserFiles()
        self._in_flight.answer(call, partial(self._open, params, grant, name, fd, files), files.cancel)

    def _taken(self, passed: str | None) -> int | None:
        """Return the descriptor sent for a call, or None if the call names none.

        :raises RpcError: InvalidParams if none was sent; StorageError.
        """
        from locara_sidecar.capability.descriptors import no_socket

        if passed is None:
            return None
        if self._descriptors is None:
            raise no_socket()
        return self._descriptors.take(passed)

    def _refuse_form(self, call: Call, error: RpcError, passed: str | None) -> None:
        """Refuse a call that does not give one file in one way. A descriptor that was sent for it is used up, too:
        otherwise the socket would fill up.

        :raises RpcError: ``error``, if nothing was sent.
        """
        try:
            fd = self._taken(passed)
        except RpcError:
            fd = None
        if fd is None:
            raise error
        self._in_flight.answer(call, partial(_refuse, error, fd))

    def _check_room(self, size: int) -> None:
        """Check that there is room for one more file.

        :raises RpcError: StorageError with EMFILE.
        """
        if len(self._files) + self._coming >= MAX_PICKED_FILES:
            message = f"{MAX_PICKED_FILES} files are picked already; release some."
            raise RpcError(
                "StorageError", message, errno=errno.errorcode[errno.EMFILE], maxPickedFiles=MAX_PICKED_FILES
            )
        held = sum(file.held_bytes for file in self._files.values())
        if size and held + size > MAX_SENT_BYTES:
            message = f"The picked files that were sent as data already hold {held} bytes; release some."
            raise RpcError("StorageError", message, errno=errno.errorcode[errno.EMFILE], maxPickedBytes=MAX_SENT_BYTES)

    def release(self, call: Call, params: ReleaseFileParams) -> Empty | None:
        """Release a handle for new calls. Releasing an unknown or released handle is no error. The answer comes when
        the file is closed, unless a call still uses it.
        """
        file = self._files.pop(params.handle, None)
        if file is None or not file.leave():
            return Empty()
        self._in_flight.answer(call, partial(_close, file))
        return None

    async def _open(
        self, params: PickFileParams, grant: Grant, name: str, fd: int | None, files: UserFiles
    ) -> PickFileResult:
        from locara_sidecar.capability import handed
        from locara_sidecar.capability.files.picked import PickedSource, pick

        try:
            if params.path is not None:
                opening = partial(pick, grant, params.path, params.access, _ALL)
            elif fd is not None:
                opening = partial(handed.handed, grant, name, fd, _ALL, "$.descriptor")
            else:
                opening = partial(handed.sent, grant, name, params.data or b"")
            hand = Handover()
            try:
                with files.heeding():
                    file: PickedFile = await wait_for(opening, _close_late, hand)
            except RpcError:
                if fd is not None and not hand.started:
                    await off_loop(os.close, fd, refused=partial(os.close, fd))
                raise
        finally:
            self._coming -= 1
        handle = f"file-{os.urandom(16).hex()}"
        self._files[handle] = file
        size = file.size if isinstance(file, PickedSource) else UNSET
        return PickFileResult(handle=handle, name=file.name, bytes=size)

    # --- what calls ask for ----------------------------------------------------------------

    def uses(self, output: str | None, sources: dict[str, str]) -> tuple[Picked, ...]:
        """Return what a call with these handles requests from the gate.

        :param sources: parameter to handle.
        """
        saved = [] if output is None else [Picked("write", self._name(output))]
        return (*saved, *(Picked("read", self._name(handle), f"{at}.handle") for at, handle in sources.items()))

    def _name(self, handle: str) -> str:
        file = self._files.get(handle)
        return "unknown" if file is None else file.name

    def target(self, handle: str, mime_type: ImageMime) -> PickedTarget:
        """Return the file to save to.

        :raises RpcError: InvalidParams.
        """
        at = "$.options.output.handle"
        file = self._find(handle, at)
        from locara_sidecar.capability.files.picked import PickedTarget  # loaded already if a file was picked

        if not isinstance(file, PickedTarget):
            raise invalid_params(at, f"{file.name} was picked for reading; pick it with access write.")
        allowed = EXTENSIONS[mime_type]
        if os.path.splitext(file.name)[1].lower() not in allowed:
            expected = " or ".join(allowed)
            message = f"The extension of {file.name} must be {expected} for {mime_type}; give its own mimeType."
            raise invalid_params(at, message)
        return file

    def sources(self, handles: dict[str, str]) -> dict[str, PickedSource]:
        """Return the files to read, by parameter.

        :raises RpcError: InvalidParams.
        """
        found: dict[str, PickedSource] = {}
        for at, handle in handles.items():
            file = self._find(handle, f"{at}.handle")
            from locara_sidecar.capability.files.picked import PickedSource  # loaded already if a file was picked

            if not isinstance(file, PickedSource):
                raise invalid_params(f"{at}.handle", f"{file.name} was picked for writing; pick it with access read.")
            found[at] = file
        return found

    def _find(self, handle: str, at: str) -> PickedFile:
        file = self._files.get(handle)
        if file is None:
            raise invalid_params(at, "No picked file has this handle; it was released, or never picked.")
        return file


def _close_late(file: PickedFile | None) -> None:
    """Close a file that was opened but is not used."""
    if file is not None:
        file.close()


async def _close(file: PickedFile) -> Empty:
    await close([file.close])
    return Empty()


async def _refuse(error: RpcError, fd: int) -> NoReturn:
    await off_loop(os.close, fd, refused=partial(os.close, fd))
    raise error


def _check_form(params: PickFileParams) -> str:
    """Check that a call gives exactly one file in one way; return its name.

    :raises RpcError: InvalidParams.
    """
    from locara_sidecar.capability import handed  # loads ctypes
    from locara_sidecar.capability.files import picked  # loads ctypes

    ways = {"path": params.path, "data": params.data, "descriptor": params.descriptor}
    given = [name for name, value in ways.items() if value is not None]
    if not given:
        raise invalid_params("$.path", "A file is picked by its path, or by data or descriptor with its name.")
    if len(given) > 1:
        raise invalid_params(
            f"$.{given[1]}", f"`{given[1]}` cannot be combined with {given[0]}; pick a file in one way only."
        )
    if params.path is not None:
        if params.name is not None:
            raise invalid_params("$.name", "`name` cannot be combined with path, which already contains it.")
        picked.check_path(params.path)
        return os.path.basename(params.path)
    if params.name is None:
        raise invalid_params("$.name", f"`name` is required with {given[0]}: the file's own name, without its folder.")
    handed.check_name(params.name)
    if params.data is not None:
        if params.access != "read":
            raise invalid_params("$.data", "A file sent as data can only be read; to write, hand over a descriptor.")
        if len(params.data) > MAX_INLINE_IMAGE_BYTES:
            message = (
                f"{len(params.data)} bytes are over the limit of {MAX_INLINE_IMAGE_BYTES}; hand over a descriptor."
            )
            raise invalid_params("$.data", message, maxInlineImageBytes=MAX_INLINE_IMAGE_BYTES)
    return params.name
