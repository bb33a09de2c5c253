"""The rules for a hub's redirects, both for its answers about a model and for the model's files."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

from locara_protocol.errors import RpcError

REDIRECTS = 5
"""The maximum number of redirects in a row."""


def failed(message: str) -> RpcError:
    """Build a DownloadFailed that retrying will not fix."""
    return RpcError("DownloadFailed", message, retryable=False)


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: where a token may be sent.

    :raises ValueError: if it is not a valid URL.
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def origin_of(url: str) -> str:
    """Return scheme and host of a URL, for people."""
    return "://".join(urlsplit(url)[:2])


def followed(endpoint: str, url: str, location: str, headers: dict[str, str], what: str) -> tuple[str, dict[str, str]]:
    """Return the target of a redirect, and the headers to send there: the token only to the host that it is for.

    :param endpoint: the hub's URL.
    :param url: what was requested, with ``headers``.
    :param what: what was requested, for people.
    :raises RpcError: DownloadFailed if the target is not allowed.
    """
    try:
        target = urljoin(url, location)
        origin(target)
    except ValueError as error:
        raise failed(f"{what} is redirected to something that is not an address.") from error
    check_target(endpoint, target, what)
    if origin(target) != origin(url):
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return target, headers


def check_target(endpoint: str, target: str, what: str) -> None:
    """Check that a redirect leads to plain http, or to this machine or its network, only if the hub itself is there.

    :raises RpcError: DownloadFailed.
    """
    if origin(target) == origin(endpoint):
        return
    scheme = urlsplit(target).scheme
    if scheme != "https" and (scheme != "http" or urlsplit(endpoint).scheme != "http"):
        raise failed(f"{what} is redirected to an address that is not https.")
    if _is_local(target) and not _is_local(endpoint):
        raise failed(f"{what} is redirected to an address of the local network.")


def _is_local(url: str) -> bool:
    """Whether a URL is on this machine or in its network. A name is resolved, if possible."""
    host = (urlsplit(url).hostname or "").lower()
    if host in ("", "localhost") or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False  # behind a proxy, names may not resolve here
    return any(not ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_global for info in found)
