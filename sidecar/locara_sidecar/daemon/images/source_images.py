"""The pictures and the mask of one edit, on their way to the engine; never decoded here.

A file is opened when the call is accepted and read when the job has its turn: a missing file is reported at once, the
file then named is the one used, and a queue of large files takes no memory. Inline images are held from the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.capability.authorize import Source
from locara_sidecar.daemon.wire.user_files import close, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.image_messages import EditParams, ImageInput
    from locara_sidecar.capability.authorize import FolderGrant
    from locara_sidecar.capability.files.picked import PickedSource
    from locara_sidecar.capability.files.reading import ReadableFile

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""The largest file, in bytes, that is read as a picture or a mask."""

MAX_EDIT_BYTES = 2 * MAX_SOURCE_BYTES
"""The limit for all files of one edit, in bytes."""

_HEAD = 16
_MASK = "$.mask"


class EditFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What an edit starts from: whole files.

    ``images``: in the call's order; ``listed``: the call has them as ``images``, not as ``image``. ``shown``: these
    members and ``mask`` as in the answer's ``parameters``; ``hashes``: as in a file's metadata.
    """

    images: list[bytes]
    listed: bool
    mask: bytes | None
    shown: dict[str, Any]
    hashes: dict[str, Any]


def check_forms(params: EditParams) -> tuple[tuple[Source, ...], dict[str, str]]:
    """Check that there are pictures, and that they and the mask are each given in one form, complete.

    :returns: the named files, in order; and the handles of picked ones, by parameter.
    :raises RpcError: InvalidParams that names the member.
    """
    if params.image is not None and params.images is not None:
        raise invalid_params(
            "$.images", "`$.images` cannot be combined with image; give one picture or a list of them."
        )
    if params.image is None and params.images is None:
        raise invalid_params("$.image", "`$.image` is required, or images with a list of pictures.")
    found: list[Source] = []
    handles: dict[str, str] = {}
    for at, given in _given(params):
        _check_form(at, given)
        if given.root is not None:
            found.append(Source(given.root, f"{at}.root"))
        if given.handle is not None:
            handles[at] = given.handle
    return tuple(found), handles


def _given(params: EditParams) -> list[tuple[str, ImageInput]]:
    one = [] if params.image is None else [("$.image", params.image)]
    listed = [(f"$.images[{index}]", given) for index, given in enumerate(params.images or ())]
    return one + listed + ([] if params.mask is None else [(_MASK, params.mask)])


def _check_form(at: str, given: ImageInput) -> None:
    forms = [
        {"root": given.root, "path": given.path},
        {"handle": given.handle},
        {"data": given.data, "mimeType": given.mime_type},
    ]
    begun = [form for form in forms if any(value is not None for value in form.values())]
    if len(begun) != 1:
        raise invalid_params(at, f"`{at}` must have root and path, or handle, or data and mimeType, and nothing else.")
    present = [name for name, value in begun[0].items() if value is not None]
    for name in begun[0]:
        if name not in present:
            raise invalid_params(f"{at}.{name}", f"`{at}.{name}` is required with {present[0]}.")


class SourceImages:
    """The pictures and the mask of one call.

    :param grants: permission to read each named file, in the order of :func:`check_forms`.
    :param picked: the files picked earlier, by parameter.
    """

    def __init__(
        self,
        params: EditParams,
        grants: tuple[FolderGrant, ...],
        picked: dict[str, PickedSource] | None = None,
    ) -> None:
        self._given = _given(params)
        self._listed = params.images is not None
        self._grants = iter(grants)
        self._picked = picked or {}
        self._files: dict[str, ReadableFile] = {}
        named = bool(self._picked) or any(given.root is not None for _, given in self._given)
        self._opened = anyio.Event() if named else None
        self._failure: Exception | None = None
        self._closed = False
        self._held = False

    @property
    def named(self) -> bool:
        """Whether there are files to open."""
        return self._opened is not None

    @property
    def sent(self) -> int:
        """Bytes sent inline, which are held from the start."""
        return sum(len(given.data) for _, given in self._given if given.data is not None)

    def hold(self) -> None:
        """Keep picked files open until the job ends, even if they are released meanwhile. Call it when the job
        is queued.
        """
        for at, file in self._picked.items():
            file.hold()
            self._files[at] = file.seen_at(f"{at}.handle")
        self._held = True

    def check_sent(self) -> None:
        """Check the signatures of inline images.

        :raises RpcError: InvalidImage.
        """
        for at, given in self._given:
            if given.data is not None:
                _check_kind(at, given.data[:_HEAD], given.mime_type)

    async def open(self) -> None:
        """Open the named files and check their signatures. Call it once, if there are any.

        :raises RpcError: InvalidParams, StorageError or InvalidImage; :meth:`read` will raise it too.
        """
        assert self._opened is not None
        try:
            await wait_for(self._open, lambda _: None)
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._opened.set()
            if self._closed:
                await close(self._taken_files())

    async def read(self) -> EditFiles:
        """Read everything, for the engine; waits for :meth:`open` if it is running.

        :raises RpcError: as :meth:`open`; InvalidImage for a file that is too large.
        """
        if self._opened is not None:
            await self._opened.wait()
        if self._failure is not None:
            raise self._failure
        return await wait_for(self._read, lambda _: None)

    async def aclose(self) -> None:
        """Release the files when the job has ended."""
        self._closed = True
        closes: list[Callable[[], None]] = []
        if self._held:
            self._held = False
            closes += [file.close for file in self._picked.values() if file.leave()]
        if self._opened is None or self._opened.is_set():
            closes += self._taken_files()
        await close(closes)

    def _taken_files(self) -> list[Callable[[], None]]:
        """Forget the open files; return what closes them."""
        closes = [file.close for file in self._files.values()]
        self._files.clear()
        return closes

    def _open(self) -> None:
        from locara_sidecar.capability.files.picked import check_room  # loads ctypes
        from locara_sidecar.capability.files.reading import ReadableFolder

        for at, given in self._given:
            if given.path is not None:
                with ReadableFolder(next(self._grants)) as folder:
                    self._files[at] = folder.open(given.path, f"{at}.path")
                check_room(self._files[at].descriptor(), f"{at}.path")
            if at in self._files:
                _check_kind(at, self._files[at].head(_HEAD), None)

    def _read(self) -> EditFiles:
        import hashlib

        data: dict[str, bytes] = {}
        shown: dict[str, Any] = {}
        hashes: dict[str, Any] = {}
        left = MAX_EDIT_BYTES
        for at, given in self._given:
            data[at] = self._files[at].read(MAX_SOURCE_BYTES) if given.data is None else given.data
            left -= len(data[at])
            if left < 0:
                raise _refused(at, f"the files of an edit may have at most {MAX_EDIT_BYTES} bytes together")
            digest = hashlib.sha256(data[at]).hexdigest()
            hashes[at] = {"sha256": digest}
            shown[at] = _shown(given, digest)
        mask = data.pop(_MASK, None)
        return EditFiles(
            images=list(data.values()),
            listed=self._listed,
            mask=mask,
            shown=_members(shown, listed=self._listed),
            # the same picture makes the same file, in whichever member it came
            hashes=_members(hashes, listed=len(data) > 1),
        )


def _members(found: dict[str, Any], *, listed: bool) -> dict[str, Any]:
    """Return what was found for each parameter, as members of a call."""
    mask = {"mask": found[_MASK]} if _MASK in found else {}
    pictures = [value for at, value in found.items() if at != _MASK]
    return {"images": pictures, **mask} if listed else {"image": pictures[0], **mask}


def _shown(given: ImageInput, digest: str) -> dict[str, Any]:
    """Return a picture as shown in the answer's ``parameters``."""
    if given.handle is not None:
        return {"handle": given.handle}
    if given.data is None:
        return {"root": given.root, "path": given.path}
    return {"sha256": digest, "mimeType": given.mime_type}


def _check_kind(at: str, head: bytes, said: str | None) -> None:
    """Check that a file has the signature of one of the three types, and of the type it is declared as.

    :raises RpcError: InvalidImage.
    """
    kind = _kind(head)
    reason = None
    if kind is None:
        reason = "it is not a PNG, JPEG or WebP file" if head else "it is empty"
    elif said is not None and said != kind:
        reason = f"it was sent as {said} but is {kind}"
    if reason is not None:
        raise _refused(at, reason)


def _refused(at: str, reason: str) -> RpcError:
    what = {"$.image": "The picture", _MASK: "The mask"}.get(at, at.removeprefix("$."))
    return RpcError("InvalidImage", f"{what} cannot be used: {reason}.", path=at, reason=reason)


def _kind(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else None
