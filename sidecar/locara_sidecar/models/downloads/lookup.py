"""Asks a hub what a repository contains: a bounded answer, over trusted redirects only, with every used member
validated. huggingface_hub's own code does none of that.
"""

from __future__ import annotations

import time
from typing import Annotated

import httpx2
import msgspec

from locara_sidecar.models.downloads.addresses import REDIRECTS, failed, followed
from locara_sidecar.models.downloads.deadline import LateError, within

MAX_ANSWER = 8 << 20
"""Bytes. A file takes some 200 of them, and a model may have 4096 files."""
_READ = 30.0  # seconds without a byte
_SECONDS = 120.0  # for the whole answer, redirects included


Size = Annotated[int, msgspec.Meta(le=1 << 50)]
Name = Annotated[str, msgspec.Meta(max_length=4096)]


class Lfs(msgspec.Struct, frozen=True):
    """The LFS data of a large file."""

    sha256: str
    size: Size


class Sibling(msgspec.Struct, frozen=True, rename="camel"):
    """One file of a repository."""

    rfilename: Name
    size: Size | None = None
    blob_id: str | None = None
    lfs: Lfs | None = None


class Repository(msgspec.Struct, frozen=True):
    """The used part of a hub's answer about a repository: its commit and its files."""

    sha: str
    siblings: list[Sibling]


class NoJsonError(ValueError):
    """The server that answered is not a hub."""


def ask(endpoint: str, url: str, headers: dict[str, str], what: str) -> httpx2.Response:
    """Request a small document and return the answer, read to its end.

    :param endpoint: the hub's URL, which determines where redirects may lead.
    :param headers: for the hub's own host.
    :param what: what is requested, for people.
    :raises RpcError: DownloadFailed for a redirect to a forbidden target, or an answer that is too long.
    :raises httpx2.HTTPError: as the connection fails.
    """
    headers = {**headers, "accept-encoding": "identity"}
    try:
        return within(_SECONDS, lambda: _asked(endpoint, url, headers, what))
    except LateError as error:
        raise httpx2.ReadTimeout("the answer takes too long") from error


def _asked(endpoint: str, url: str, headers: dict[str, str], what: str) -> httpx2.Response:
    ends = time.monotonic() + _SECONDS
    # proxies come from the environment; it is closed by the thread that reads from it (see ``within``)
    with httpx2.Client(follow_redirects=False, timeout=_READ) as client:
        for _ in range(REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as response:
                if not response.is_redirect:
                    return _whole(response, what, ends)
                location = response.headers.get("location", "")
            url, headers = followed(endpoint, url, location, headers, what)
    raise failed(f"{what} is redirected too many times.")


def _whole(response: httpx2.Response, what: str, ends: float) -> httpx2.Response:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise failed(f"The hub's answer about {what} is compressed, although an uncompressed one was requested.")
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise failed(f"The hub's answer about {what} is longer than {MAX_ANSWER >> 20} MiB.")
        if time.monotonic() > ends:  # nobody waits for it any more
            raise httpx2.ReadTimeout("the answer takes too long", request=response.request)
    return httpx2.Response(
        response.status_code, headers=response.headers, content=bytes(content), request=response.request
    )


def repository(content: bytes, what: str) -> Repository:
    """Decode a hub's answer about a repository.

    :raises NoJsonError: if it does not come from a hub.
    :raises RpcError: DownloadFailed naming the member that is missing or of the wrong type.
    """
    try:
        return msgspec.json.decode(content, type=Repository)
    except msgspec.ValidationError as error:
        raise failed(f"The hub's answer about {what} cannot be used: {error}.") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise NoJsonError from error
