"""This machine's settings for reaching the hub (proxy, token, certificates), checked before the hub is asked anything.

huggingface_hub and httpx2 read many environment variables; a bad one shows up as any kind of exception from anywhere,
or as a server that never answers. Here each is reported in a sentence, at once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.machine.macos import app_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_WHOLE_NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH", "XDG_CACHE_HOME")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_TRUE = ("1", "ON", "YES", "TRUE")  # as in huggingface_hub
_PROXY_KINDS = ("http", "https", "socks5", "socks5h")


def wrong(setting: str, why: str) -> RpcError:
    """Build the DownloadFailed that names a setting; retrying will not fix it."""
    return RpcError("DownloadFailed", f"{setting} {why}.", retryable=False, setting=setting)


def token_fault(token: str) -> str | None:
    """Return why a text cannot be a token, or None."""
    if not token:
        return "is empty"
    if not token.isascii():
        return "has characters that no token can have"
    visible = all("!" <= letter <= "~" for letter in token)
    return None if visible else "has a space, a line end or another such character"


def require_network() -> None:
    """Check that an app's sandbox, if any, permits connections; otherwise nothing can be downloaded, whatever the host
    allows.

    :raises RpcError: DownloadFailed, not retryable.
    """
    if (given := app_sandbox.given()) is None or app_sandbox.has_network():
        return
    whose = "The app's sandbox" if given == "app-sandbox" else "The sandbox that this process was started in"
    message = (
        f"{whose} allows no connections, so nothing can be downloaded: the app needs the entitlement "
        f"{app_sandbox.NETWORK}, or the model must be imported from a folder."
    )
    raise RpcError("DownloadFailed", message, retryable=False, entitlement=app_sandbox.NETWORK)


def check(token: str | None = None) -> None:
    """Check every setting. An empty variable counts as unset, and is removed from this process's environment.

    :param token: the caller's; None takes the user's.
    :raises RpcError: InvalidParams for the caller's token; DownloadFailed, not retryable, with ``setting``.
    """
    if token is not None and (why := token_fault(token)):
        raise invalid_params("$.auth.token", f"The token {why}.")
    for name in (*_WHOLE_NUMBERS, *_PLACES, *_CERTIFICATES, "HF_ENDPOINT"):
        if name in os.environ and not os.environ[name].strip():
            del os.environ[name]
    for name in _WHOLE_NUMBERS:
        if not _is_number(os.environ.get(name, "1")):
            raise wrong(name, "must be a whole number of seconds, with nothing after it")
    _check_endpoint(os.environ.get("HF_ENDPOINT"))
    for name, address in _proxies():
        if why := proxy_fault(address):
            raise wrong(name, why)
    _check_certificates()
    origin = os.environ.get("HF_HUB_USER_AGENT_ORIGIN", "")
    if not (origin.isascii() and origin.isprintable()):
        raise wrong("HF_HUB_USER_AGENT_ORIGIN", "has characters that a header cannot have")
    # otherwise huggingface_hub fetches a list from the hub and caches it for a day, even if it is really a sign-in page
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if token is None and not is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        _check_own_token()


def is_true(name: str) -> bool:
    """Whether a switch is on, by huggingface_hub's rules."""
    return os.environ.get(name, "").upper() in _TRUE


def proxy_fault(address: str) -> str | None:
    """Return why a URL cannot be that of a proxy, or None. Never quotes it, because it may contain a password."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "names a proxy whose address or port cannot be read"
    if parts.scheme and parts.scheme not in _PROXY_KINDS:
        return f"names a proxy of type {parts.scheme}, which cannot be used; http:// and https:// can"
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        return "names a SOCKS proxy, which needs the Python package socksio; name an http:// proxy, or install that"
    odd = not parts.scheme or not parts.hostname or any(not letter.isprintable() or letter.isspace() for letter in text)
    return "names a proxy whose address or port cannot be read" if odd or port == 0 else None


def used_proxy(url: str) -> str | None:
    """Return the name of the variable whose proxy a request to ``url`` uses, if it uses one."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    known = getproxies()
    if not parts.hostname or proxy_bypass(parts.hostname) or not {parts.scheme, "all"} & known.keys():
        return None
    name = f"{parts.scheme if parts.scheme in known else 'all'}_proxy"
    return next((spelt for spelt in (name.upper(), name) if os.environ.get(spelt)), "the system's proxy")


def _proxies() -> Iterator[tuple[str, str]]:
    for name in _PROXIES:
        for spelt in (name, name.lower()):
            # in a CGI program HTTP_PROXY could come from a request's header; then it is not used
            if os.environ.get(spelt) and not (spelt == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
                yield spelt, os.environ[spelt]


def _is_number(text: str) -> bool:
    try:
        return int(text) > 0
    except ValueError:
        return False


def _check_endpoint(endpoint: str | None) -> None:
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        raise wrong("HF_ENDPOINT", f"is not an address: {endpoint!r}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong("HF_ENDPOINT", f"must begin with https:// or http:// and name a host; it is {endpoint!r}")
    if port == 0 or any(letter.isspace() or not letter.isprintable() for letter in endpoint):
        raise wrong("HF_ENDPOINT", f"is not an address: {endpoint!r}")


def _check_certificates() -> None:
    import ssl  # slow to import, and a session that checks a token does not need it

    if (keys := os.environ.get("SSLKEYLOGFILE")) and not sys.flags.ignore_environment:  # read by each context
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = keys
        except OSError as error:
            raise wrong("SSLKEYLOGFILE", f"names a file that cannot be written: {keys}; unset it") from error
    file, folder = (os.environ.get(name) for name in _CERTIFICATES)
    if file is not None:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:  # includes SSLError
            raise wrong("SSL_CERT_FILE", f"names a file without certificates that can be read: {file}") from error
    elif folder is not None and not os.path.isdir(folder):
        raise wrong("SSL_CERT_DIR", f"names no folder: {folder}")


def _check_own_token() -> None:
    for name in TOKENS:
        text = os.environ.get(name, "").strip("\r\n ")
        if text:
            if why := token_fault(text):
                raise wrong(name, f"holds no token: it {why}")
            return
    path = _token_path()
    setting = "HF_TOKEN_PATH" if "HF_TOKEN_PATH" in os.environ else "HF_HOME"
    try:
        with open(path, "rb") as file:
            data = file.read(8192)
    except FileNotFoundError:
        return
    except OSError as error:
        raise wrong(setting, f"leads to a token file that cannot be read, {path} ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")) or b"\0" in data:
        raise wrong(setting, f"leads to a token file that is not plain text, {path}: write it again in ASCII or UTF-8")
    text = data.decode("ascii", errors="replace").strip()
    if text and (why := token_fault(text)):
        raise wrong(setting, f"leads to a token file that holds no token, {path}: it {why}")


def _token_path() -> str:
    """Return where huggingface_hub looks for the user's token."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = os.environ.get("HF_TOKEN_PATH") or os.path.join(os.path.expandvars(os.path.expanduser(home)), "token")
    return os.path.expandvars(os.path.expanduser(path))
