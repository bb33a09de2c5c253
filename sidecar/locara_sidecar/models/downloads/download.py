"""Downloads a model from the hub into the store: resolve, check disk space, transfer, check, publish.

Blocking; the daemon runs it in a separate process (``worker.py``) and stops it by killing that: the next attempt
resumes from whatever has arrived.
"""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.machine import disk_space
from locara_sidecar.models.cache import collect, disk, partial
from locara_sidecar.models.cache.staging import BlobMissingError, Staging, settled
from locara_sidecar.models.cache.store import File, Installed, Origin
from locara_sidecar.models.checks import check
from locara_sidecar.models.downloads import settings
from locara_sidecar.models.downloads.hub import Hub, Listing, RemoteFile, TransientError
from locara_sidecar.models.downloads.transfer import RetryPolicy, StoppedError, Transfer
from locara_sidecar.models.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry, Source

AT_ONCE = 4
"""The number of files transferred in parallel."""

_SPARE = 64 * 1024 * 1024  # bytes of the disk left to others


class Download:
    """One model's download.

    :param endpoint: the hub; None takes ``HF_ENDPOINT`` or huggingface_hub's own.
    :param tell: called with the progress.
    :param accept: called with the finished folder before it becomes the model; raises to refuse it.
    """

    def __init__(
        self,
        store: Store,
        entry: Entry,
        *,
        tell: Callable[[DownloadProgress], None],
        token: str | None = None,
        endpoint: str | None = None,
        patience: RetryPolicy | None = None,
        accept: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._accept = accept
        self._store = store
        self._entry = entry
        self._meter = Meter(entry.id, tell)
        self._hub = Hub(endpoint, token)
        self._patience = patience or RetryPolicy()
        self._stop = threading.Event()
        self._needed = _SPARE

    def stop(self) -> None:
        """End :meth:`run` soon, from any thread; what has arrived is kept for the next attempt."""
        self._stop.set()

    def run(self) -> Installed:
        """Download and publish; a model that is installed already is returned as it is.

        :raises RpcError: DownloadFailed, LicenseNotAccepted, IntegrityError, ModelIncomplete, InsufficientDisk,
            StorageError, RequestCancelled (after :meth:`stop`).
        """
        there = self._store.find(self._entry.id)
        if there is not None:
            return settled(self._store, there)
        settings.require_network()
        try:
            return self._run()
        except StoppedError as error:
            raise RpcError("RequestCancelled", "The request was cancelled.") from error
        except OSError as error:
            raise self._storage(error) from error

    def _run(self) -> Installed:
        self._meter.phase("resolving")
        listings = [(source, self._patiently(self._pinned(source))) for source in self._entry.sources]
        files = [file for _, listing in listings for file in listing.files]
        check.check_names(file.path for file in files)
        for file in files:
            check.check_size(file.path, file.size)
        collect.sweep(self._store)
        with Staging(self._store) as staging:
            self._transfer(staging, files)
            self._meter.phase("verifying", sum(file.size for file in files), len(files))
            for file in files:
                if file.path.endswith(".safetensors"):
                    check.check_file(staging.tree, file.path)
                self._meter.add(file.size, 1)
            check.check_complete(staging.tree, staging.files)
            self._accept(staging.tree)
            self._meter.phase("publishing", sum(file.size for file in files), len(files))
            entry = staging.publish(self._entry.id, self._entry.version, _origins(listings))
        self._meter.phase("publishing", entry.meta.bytes, len(files), entry.meta.bytes, len(files))
        return entry

    def _pinned(self, source: Source) -> Source:
        """Return the source at the commit used before, if the catalogue names none: repairing a model must not change
        it into another.
        """
        damaged = self._store.find(self._entry.id, damaged=True)
        origins = () if damaged is None else damaged.meta.source
        known = {origin.repository: origin.revision for origin in origins}
        return msgspec.structs.replace(source, revision=source.revision or known.get(source.repository))

    def _patiently(self, source: Source) -> Listing:
        for failures in range(1, self._patience.tries + 1):
            try:
                return self._hub.listing(source)
            except TransientError as error:
                if failures == self._patience.tries:
                    message = f"{source.repository} could not be looked up: {error}."
                    raise RpcError("DownloadFailed", message) from error
                delay = min(self._patience.first_wait * 2 ** (failures - 1), self._patience.longest_wait)
                if self._stop.wait(max(delay, error.after)):
                    raise StoppedError from error
        raise AssertionError("the loop returns or raises")

    # --- the bytes -----------------------------------------------------------------------

    def _transfer(self, staging: Staging, files: Sequence[RemoteFile]) -> None:
        """Transfer all files into the tree: configurations first, so that refusing a model does not cost its
        weights.
        """
        missing = [file for file in files if not self._from_store(staging, file)]
        waiting = sum(file.size - self._started(file) for file in missing)
        self._needed, available = waiting + _SPARE, disk.available(self._store.incoming)
        if self._needed > available:
            raise self._no_room(available)
        total = sum(file.size for file in files)
        self._meter.phase("downloading", total, len(files), total - waiting, len(files) - len(missing))
        transfer = Transfer(
            self._hub.endpoint,
            self._hub.headers(),
            patience=self._patience,
            on_bytes=self._meter.add,
            stopped=self._stop.is_set,
        )
        small = [file for file in missing if not file.path.endswith(".safetensors")]
        large = [file for file in missing if file.path.endswith(".safetensors")]
        try:
            self._all(staging, transfer, small)
            for file in files:
                if not file.path.endswith(".safetensors"):
                    check.check_file(staging.tree, file.path)
            self._all(staging, transfer, large)
        finally:
            transfer.close()
        self._meter.finish()

    def _all(self, staging: Staging, transfer: Transfer, files: Sequence[RemoteFile]) -> None:
        with ThreadPoolExecutor(AT_ONCE, "transfer") as pool:
            tasks = [pool.submit(self._one, staging, transfer, file) for file in files]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                failed = [error for task in done if (error := task.exception()) is not None]
                if failed:
                    # the others end with StoppedError, which says nothing
                    raise next((error for error in failed if not isinstance(error, StoppedError)), failed[0])
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _one(self, staging: Staging, transfer: Transfer, remote: RemoteFile) -> None:
        while not self._stop.is_set():
            if self._from_store(staging, remote):
                self._meter.add(0, 1)
                return
            part = partial.claim(self._store.incoming, remote.key)
            if part is None:
                time.sleep(0.1)  # another download is fetching the same bytes: they will be in the store, or left to us
                continue
            try:
                transfer.fetch(remote, part)
                part.sync()
                staging.adopt(part.path, File(remote.path, part.size, part.sha256))
            except BaseException:
                part.close()
                raise
            part.close(delete=True)
            self._meter.add(0, 1)
            return
        raise StoppedError

    def _from_store(self, staging: Staging, remote: RemoteFile) -> bool:
        if remote.sha256 is None or not self._store.has_blob(remote.sha256, remote.size):
            return False
        try:
            staging.place(File(remote.path, remote.size, remote.sha256))
        except BlobMissingError:
            return False
        return True

    def _started(self, remote: RemoteFile) -> int:
        return min(remote.size, partial.started(self._store.incoming, remote.key))

    def _no_room(self, available: int) -> RpcError:
        message = f"{self._entry.id} needs {self._needed} bytes of disk space; {available} are free."
        return RpcError("InsufficientDisk", message, needed=self._needed, available=available)

    def _storage(self, error: OSError) -> RpcError:
        if error.errno in disk_space.FULL:
            available = disk.available(self._store.root)
            why = disk_space.why_full(error.errno, self._store.root, self._needed, available)
            message = f"{self._entry.id} cannot be downloaded. {why}"
            return RpcError("InsufficientDisk", message, needed=self._needed, available=available)
        name = errno.errorcode.get(error.errno or 0, "EIO")
        return RpcError("StorageError", f"The model cache {self._store.root} cannot be written ({name}).", errno=name)


def _origins(listings: Sequence[tuple[Source, Listing]]) -> list[Origin]:
    return [Origin(repository=source.repository, revision=listing.revision) for source, listing in listings]
