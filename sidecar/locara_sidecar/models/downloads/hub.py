"""Our use of huggingface_hub: the user's token, a repository's contents, the location of its files.

The only module that imports huggingface_hub, and only the download's process imports this one. Contents are
transferred and checked by ``transfer.py``.
"""

from __future__ import annotations

import fnmatch
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
import msgspec
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    hf_raise_for_status,
    validate_repo_id,
)

from locara_protocol.errors import RpcError
from locara_sidecar import __version__
from locara_sidecar.models.downloads import lookup, settings
from locara_sidecar.models.downloads.addresses import failed, origin_of

if TYPE_CHECKING:
    from locara_sidecar.models.catalogue import Source


class TransientError(Exception):
    """A failure that may pass; ``after`` is the delay in seconds that the server asks for."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to fetch. The hub gives a SHA-256 for large files only; small ones have a git blob id.

    :param path: its path in the model's tree.
    """

    path: str
    url: str
    page: str
    size: int
    sha256: str | None
    git: str | None

    @property
    def key(self) -> str:
        """The identity of its contents before they have been hashed."""
        return self.sha256 or f"git-{self.git}"


class Listing(msgspec.Struct, frozen=True):
    """A repository at one commit: the files that a source's patterns select."""

    revision: str
    files: list[RemoteFile]


class Hub:
    """The hub at ``endpoint`` (default: ``HF_ENDPOINT`` or huggingface_hub's own).

    :param token: a user's token; None takes it from huggingface_hub's usual places, if there is one.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        settings.check(token if isinstance(token, str) else None)
        self._api = HfApi(endpoint=endpoint, token=token, library_name="locara-sidecar", library_version=__version__)
        self.endpoint: str = self._api.endpoint.rstrip("/")
        self._token = token

    def headers(self) -> dict[str, str]:
        """Return the headers for files on the hub itself, with the token if there is one.

        :raises RpcError: DownloadFailed if the user's token cannot be read.
        """
        try:
            return build_hf_headers(token=self._token, library_name="locara-sidecar", library_version=__version__)
        except Exception as error:
            raise classify(error, self.endpoint, "the hub") from error

    def listing(self, source: Source) -> Listing:
        """List a repository's files.

        :raises RpcError: LicenseNotAccepted, DownloadFailed for permanent failures, IntegrityError for an invalid
            answer.
        :raises TransientError: for temporary failures.
        """
        repository = source.repository or ""
        page = f"{self.endpoint}/{repository}"
        try:
            info = self._info(repository, source.revision or "main")
        except hub_errors.GatedRepoError as error:
            raise license_not_accepted(page) from error
        except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
            raise failed(f"The hub has no {repository} at {source.revision or 'main'}, or hides it.") from error
        except hub_errors.HfHubHTTPError as error:
            raise status_error(error.response.status_code, error.response.headers, repository, page) from error
        except hub_errors.OfflineModeIsEnabled as error:
            name = "HF_HUB_OFFLINE" if settings.is_true("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
            raise settings.wrong(name, "is set, which forbids every download; unset it to download") from error
        except hub_errors.HFValidationError as error:
            raise failed(f"{repository} is not the name of a repository.") from error
        except (RpcError, TransientError):
            raise
        except Exception as error:
            raise classify(error, self.endpoint, "the hub") from error
        if not _is_hex(info.sha, 40):
            raise failed(f"The hub does not name a commit for {repository}.")
        files = [self._remote(source, info.sha, page, file) for file in info.siblings]
        return Listing(info.sha, _select(source, [file for file in files if file is not None], repository))

    def _info(self, repository: str, revision: str) -> lookup.Repository:
        """Fetch what the hub says about a repository.

        :raises Exception: anything that huggingface_hub raises, among others.
        """
        validate_repo_id(repository)
        if settings.is_true("HF_HUB_OFFLINE") or settings.is_true("TRANSFORMERS_OFFLINE"):
            raise hub_errors.OfflineModeIsEnabled
        url = f"{self.endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
        answer = lookup.ask(self.endpoint, url, self.headers(), repository)
        hf_raise_for_status(answer)
        try:
            return lookup.repository(answer.content, repository)
        except lookup.NoJsonError as error:
            raise no_hub(self.endpoint) from error

    def _remote(self, source: Source, revision: str, page: str, file: lookup.Sibling) -> RemoteFile | None:
        name = file.rfilename
        if not _selected(source, name):
            return None
        sha256 = None if file.lfs is None else file.lfs.sha256
        size = file.size if file.lfs is None else file.lfs.size
        if size is None or size < 0:
            raise RpcError("IntegrityError", f"The hub does not give the size of {name}.", file=name)
        # both name files in the store
        if not (_is_hex(file.blob_id or "", 40) if sha256 is None else _is_hex(sha256, 64)):
            raise RpcError("IntegrityError", f"The hub does not give the hash of {name}.", file=name)
        return RemoteFile(
            path=source.place.get(name, name),
            url=hf_hub_url(source.repository or "", name, revision=revision, endpoint=self.endpoint),
            page=page,
            size=size,
            sha256=sha256,
            git=file.blob_id,
        )


def _selected(source: Source, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in source.files) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in source.exclude
    )


def _select(source: Source, files: list[RemoteFile], repository: str) -> list[RemoteFile]:
    if not files:
        raise failed(f"{repository} has none of the files that the catalogue asks for.")
    missing = [path for path in source.place.values() if all(file.path != path for file in files)]
    if missing:
        raise failed(f"{repository} has no file for {missing[0]}.")
    return files


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


def license_not_accepted(page: str) -> RpcError:
    """Build LicenseNotAccepted, with the page where the user can accept."""
    message = (
        f"The model's licence must be accepted at {page}, and the download needs a token of that account: "
        "from the variable HF_TOKEN, the command hf auth login or the host (auth.token of initialize)."
    )
    return RpcError("LicenseNotAccepted", message, url=page)


def no_hub(endpoint: str) -> RpcError:
    """Build the error for a server that is not a hub."""
    why = "is HF_ENDPOINT right, or does a proxy or a sign-in page answer in its place?"
    return failed(f"{endpoint} does not answer like a hub: {why}")


def classify(error: BaseException, url: str, who: str) -> RpcError | TransientError:
    """Map any exception of the transport to something temporary, or to a DownloadFailed that says what to do. None of
    them is our own fault.

    :param url: what was requested; if it goes through a proxy, that is named.
    """
    causes = _causes(error)
    proxy = settings.used_proxy(url)
    by = f" through {proxy}" if proxy else ""
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        advice = "SSL_CERT_FILE may name the authorities to trust (REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE are not read)"
        return failed(f"The certificate of {origin_of(url)} is not trusted{by}: {advice}.")
    if isinstance(error, hub_errors.OIDCError):
        return settings.wrong("HF_OIDC_RESOURCE", "is set, but no token could be obtained with it")
    if isinstance(error, httpx2.ProxyError):
        if "407" in str(error):
            return settings.wrong(
                proxy or "The proxy", "asks for a user and a password: http://user:password@host:port"
            )
        return TransientError(f"{who} cannot be reached{by} (ProxyError)")
    if isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return failed(f"{who[0].upper()}{who[1:]} cannot be queried{by} ({type(error).__name__}).")
    if isinstance(error, httpx2.HTTPError | OSError):
        return TransientError(f"{who} does not answer{by} ({type(error).__name__})")
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
        return no_hub(origin_of(url))
    return failed(f"{who[0].upper()}{who[1:]} cannot be queried{by} ({type(error).__name__}).")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def status_error(status: int, headers: Any, what: str, page: str) -> RpcError | TransientError:
    """Map an HTTP status from the hub itself to an error."""
    if status in (401, 403):
        return license_not_accepted(page)
    if status in (408, 425, 429) or status >= 500:
        wait = str(headers.get("retry-after", ""))
        return TransientError(f"the hub answered {status}", min(float(wait), 60.0) if wait.isdecimal() else 0.0)
    return failed(f"The hub answered {status} for {what}.")
