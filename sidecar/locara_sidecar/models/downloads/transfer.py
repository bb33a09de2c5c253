"""Transfers one file: resumes it, follows trusted redirects only, and verifies its hash.

Retried: temporary failures (connections, timeouts, 429 and 5xx, a transfer that ends early or stalls, a URL that has
expired). Not retried: permanent ones (licence, 404, a redirect to a forbidden target). Complete but wrong bytes are
discarded and fetched once more, then refused.
"""

from __future__ import annotations

import random
import re
import threading
import time
from typing import TYPE_CHECKING

import httpx2
import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.models.checks.check import refused
from locara_sidecar.models.downloads.addresses import REDIRECTS, failed, followed, origin
from locara_sidecar.models.downloads.deadline import LateError, within
from locara_sidecar.models.downloads.hub import TransientError, classify, status_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.models.cache.partial import Partial
    from locara_sidecar.models.downloads.hub import RemoteFile

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19}|\*)")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient to be with a server; times in seconds.

    :param tries: consecutive failures, without ``good`` bytes in between, before giving up.
    :param window: a transfer that receives fewer than ``crawl`` bytes in this time is aborted.
    """

    connect: float = 15.0
    read: float = 30.0
    tries: int = 6
    good: int = 1 << 20
    first_wait: float = 0.5
    longest_wait: float = 20.0
    window: float = 30.0
    crawl: int = 30 * 1024


class CorruptError(Exception):
    """The bytes are complete, or too many, but not those that were announced."""


class StoppedError(Exception):
    """The download was stopped on request."""


class Transfer:
    """Fetches files from one hub.

    :param headers: for the hub's own host, including the token; other hosts never get the token.
    :param on_bytes: called with the number of bytes received (negative when some are discarded); in any thread.
    :param stopped: called between chunks.
    """

    def __init__(
        self,
        endpoint: str,
        headers: dict[str, str],
        *,
        patience: RetryPolicy,
        on_bytes: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._endpoint = endpoint
        self._headers = {**headers, "accept-encoding": "identity"}
        self._patience = patience
        self._on_bytes = on_bytes
        self._stopped = stopped
        timeout = httpx2.Timeout(patience.read, connect=patience.connect)
        self._client = httpx2.Client(follow_redirects=False, timeout=timeout)  # proxies come from the environment
        self._lock = threading.Lock()
        self._closed = False
        self._sending = 0  # requests whose answer has not begun, even if nobody waits for it any more

    def close(self) -> None:
        """Close the connections; where a thread still reads from one (see :func:`within`), once that has ended."""
        with self._lock:
            self._closed = True
            busy = self._sending > 0
        if not busy:
            self._client.close()

    def fetch(self, remote: RemoteFile, part: Partial) -> None:
        """Complete a part and check it.

        :raises RpcError: DownloadFailed, LicenseNotAccepted, IntegrityError.
        :raises StoppedError: if it was stopped; what has arrived stays in the part.
        :raises OSError: if the part cannot be written.
        """
        failures = corrupt = 0
        while True:
            before = part.size
            try:
                self._attempt(remote, part)
                self._verify(remote, part)
            except CorruptError as error:
                self._discard(part)
                corrupt += 1
                if corrupt > 1:
                    raise refused(remote.path, str(error)) from error
            except (RpcError, StoppedError, OSError):
                raise
            except Exception as error:
                why = error if isinstance(error, TransientError) else classify(error, remote.url, "the server")
                if not isinstance(why, TransientError):
                    raise why from error
                failures = 1 if part.size - before >= self._patience.good else failures + 1
                if failures >= self._patience.tries:
                    raise RpcError("DownloadFailed", f"{remote.path} could not be fetched: {why}.") from error
                self._wait(failures, why.after)
            else:
                return

    def _discard(self, part: Partial) -> None:
        self._on_bytes(-part.size)
        part.reset()

    def _verify(self, remote: RemoteFile, part: Partial) -> None:
        if part.size != remote.size:
            raise TransientError("the transfer ended early")
        right = part.sha256 == remote.sha256 if remote.sha256 else part.git_id() == remote.git
        if not right:
            raise CorruptError("its bytes differ from those that the hub announced")

    def _wait(self, failures: int, at_least: float) -> None:
        wait = min(self._patience.first_wait * 2 ** (failures - 1), self._patience.longest_wait)
        end = time.monotonic() + max(at_least, wait * random.uniform(0.5, 1.0))
        while (left := end - time.monotonic()) > 0:
            if self._stopped():
                raise StoppedError
            time.sleep(min(left, 0.1))

    # --- one try -------------------------------------------------------------------------

    def _attempt(self, remote: RemoteFile, part: Partial) -> None:
        if part.size > remote.size:
            self._discard(part)
        if part.size == remote.size:
            return
        headers = dict(self._headers)
        if part.size and part.etag is None:
            self._discard(part)  # nothing guarantees that the rest would match what we have
        if part.size:
            headers |= {"range": f"bytes={part.size}-", "if-range": part.etag or ""}
        response = self._open(remote, headers)
        try:
            self._begin(remote, part, response)
            self._receive(remote, part, response)
        finally:
            response.close()

    def _open(self, remote: RemoteFile, headers: dict[str, str]) -> httpx2.Response:
        """Follow redirects by hand, starting from the hub's own URL each time, because the others expire."""
        url = remote.url
        for _ in range(REDIRECTS + 1):
            response = self._head(self._client.build_request("GET", url, headers=headers))
            if not response.is_redirect:
                if not response.is_success and response.status_code != 416:
                    response.close()
                    raise self._status(response, remote, url)
                return response
            response.close()
            linked = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
            if remote.sha256 and len(linked) == 64 and linked != remote.sha256:
                raise CorruptError("the hub sent different bytes from those it announced")
            location = response.headers.get("location", "")
            url, headers = followed(self._endpoint, url, location, headers, remote.path)
        raise failed(f"{remote.path} is redirected too many times.")

    def _head(self, request: httpx2.Request) -> httpx2.Response:
        """Return the answer, whose body has not been read yet."""
        most = 2 * (self._patience.connect + self._patience.read)
        with self._lock:
            self._sending += 1
        try:
            return within(most, lambda: self._send(request), self._stopped, lambda answer: answer.close())
        except LateError as error:
            if self._stopped():
                raise StoppedError from error
            raise TransientError("the server takes too long to answer") from error

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self._client.send(request, stream=True)
        finally:
            with self._lock:
                self._sending -= 1
                last = self._closed and self._sending == 0
            if last:
                self._client.close()

    def _status(self, response: httpx2.Response, remote: RemoteFile, url: str) -> Exception:
        if origin(url) == origin(self._endpoint):
            return status_error(response.status_code, response.headers, remote.path, remote.page)
        if response.status_code in (401, 403, 404, 410):
            return TransientError(f"the address has expired ({response.status_code})")
        error = status_error(response.status_code, response.headers, remote.path, remote.page)
        return error if isinstance(error, TransientError) else failed(str(error))

    def _begin(self, remote: RemoteFile, part: Partial, response: httpx2.Response) -> None:
        """Move the part to where the answer starts."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TransientError("the server compressed the file")
        if response.status_code == 206 and part.size:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            total = match.group(2) if match else ""
            if match is None or int(match.group(1)) != part.size or total not in ("*", str(remote.size)):
                self._discard(part)
                raise TransientError("the server sent a different range from the one requested")
            return
        if part.size:
            self._discard(part)  # 200: it has changed there; 416: it has become shorter
        if response.status_code != 200:
            raise TransientError(f"the server answered {response.status_code}")
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) != remote.size:
            raise CorruptError(f"the server has {length} bytes of it, the hub announced {remote.size}")
        part.note(response.headers.get("etag"))

    def _receive(self, remote: RemoteFile, part: Partial, response: httpx2.Response) -> None:
        window_ends, window_bytes = time.monotonic() + self._patience.window, 0
        for chunk in response.iter_raw():
            if self._stopped():
                raise StoppedError
            if part.size + len(chunk) > remote.size:
                raise CorruptError(f"the server sends more than the {remote.size} bytes that were announced")
            part.write(chunk)
            self._on_bytes(len(chunk))
            window_bytes += len(chunk)
            now = time.monotonic()
            if now >= window_ends:
                if window_bytes < self._patience.crawl and part.size < remote.size:
                    raise TransientError("the transfer is too slow")
                window_ends, window_bytes = now + self._patience.window, 0
        if part.size < remote.size:
            raise TransientError("the transfer ended early")
