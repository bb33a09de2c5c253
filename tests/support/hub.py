"""A hub on loopback: the endpoints that huggingface_hub uses, serving folders, with faults on demand.

``GET /api/models/<repo>/revision/<rev>?blobs=true``, ``GET|HEAD /<repo>/resolve/<rev>/<path>``; large files are
redirected to ``/cdn/<sha256>`` as the real hub does, with ``X-Linked-*`` headers. Every request is kept in ``log``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

COMMIT = "5ba5e1e5" * 5
_CHUNK = 1 << 18
_PACED = 1 << 14


@dataclass
class Fault:
    """What goes wrong with requests whose path contains ``where``, the first ``times`` times.

    ``kind``: cut (after ``at`` bytes), flip (wrong byte at ``at``), range (of another place), etag (another each time),
    answer (``body``), status (``status``), drip (one byte at a time), endless, redirect (to ``to``), refuse (close at
    once), interim (one interim answer after the other), other (all other bytes, as many), longer (more bytes than
    announced), shorter (fewer, as if that were all).
    """

    where: str
    kind: str
    times: int = 10**9
    at: int = 0
    status: int = 500
    to: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class _Repository:
    def __init__(self, folder: Path, gated: bool, lfs_from: int) -> None:
        self.gated = gated
        self.files = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size = path.stat().st_size
                lfs = size >= lfs_from and path.suffix != ".json"
                sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        sha256.update(chunk)
                        git.update(chunk)
                name = path.relative_to(folder).as_posix()
                self.files[name] = (path, sha256.hexdigest(), git.hexdigest(), size, lfs)


class FakeHub:
    """Serve until closed. ``token`` is the one that opens gated repositories."""

    def __init__(self, token="good-token") -> None:
        self.token = token
        self.repositories = {}
        self.faults = []
        self.log = []
        self.sent = 0
        self.pace = 0.0  # seconds to wait between pieces
        self.sending = self.most_at_once = 0
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.cdn = self.url.replace("127.0.0.1", "localhost")  # a different host for a client, like the real one
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, repository: str, folder: Path, *, gated=False, lfs_from=1024) -> None:
        self.repositories[repository] = _Repository(Path(folder), gated, lfs_from)

    def fail(self, where: str, kind: str, **more) -> Fault:
        fault = Fault(where, kind, **more)
        self.faults.append(fault)
        return fault

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def requests(self, where: str) -> list[Request]:
        return [request for request in self.log if where in request.path]

    @contextlib.contextmanager
    def counting(self):
        """Count how many files are being sent at once."""
        with self._lock:
            self.sending += 1
            self.most_at_once = max(self.most_at_once, self.sending)
        try:
            yield
        finally:
            with self._lock:
                self.sending -= 1

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Ignore it: clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.hub.take_fault(path)
        if fault is not None and fault.kind == "refuse":
            self.close_connection = True
            return
        if fault is not None and fault.kind == "interim":
            with _ignored():
                while not self.hub.ended.wait(0.01):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.close_connection = True
            return
        if fault is not None and fault.kind == "status":
            self._answer(fault.status, b"", fault.headers)
            return
        if fault is not None and fault.kind == "answer":
            self._answer(200, fault.body, fault.headers)
            return
        if fault is not None and fault.kind == "redirect":
            self._answer(302, b"", {"Location": fault.to, **fault.headers})
            return
        if path.startswith("/api/models/"):
            self._info(path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            self._cdn(path.removeprefix("/cdn/"), fault)
        else:
            self._resolve(path, fault)

    def _answer(self, status: int, body: bytes, headers=None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, name: str):
        found = self.hub.repositories.get(name)
        if found is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        return found

    def _tree(self, name: str) -> None:
        """Answer what huggingface_hub's own download asks for (ours asks for the model's info)."""
        repository = self._repository(name)
        if repository is not None:
            rows = [
                {
                    "type": "file",
                    "path": path,
                    "oid": git,
                    "size": size,
                    **({"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if lfs else {}),
                }
                for path, (_, sha256, git, size, lfs) in repository.files.items()
            ]
            self._answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def _info(self, rest: str) -> None:
        if "/tree/" in rest:
            self._tree(rest.partition("/tree/")[0])
            return
        name, _, revision = rest.partition("/revision/")
        repository = self._repository(name)
        if repository is None:
            return
        if revision not in ("", "main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [
            {
                "rfilename": path,
                "size": size,
                "blobId": git,
                **({"lfs": {"sha256": sha256, "size": size, "pointerSize": 130}} if lfs else {}),
            }
            for path, (_, sha256, git, size, lfs) in repository.files.items()
        ]
        info = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings}
        info |= {"gated": "auto" if repository.gated else False, "tags": [], "downloads": 0, "likes": 0}
        self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str, fault: Fault | None) -> None:
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        repository = self._repository(name)
        if repository is None:
            return
        if repository.gated and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            status = 401 if "authorization" not in self.headers else 403
            self._answer(status, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return
        file = repository.files.get(rest.partition("/")[2])
        if file is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        source, sha256, git, size, lfs = file
        common = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if lfs:
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
            self._answer(302, b"", {**common, **linked, "Location": f"{self.hub.cdn}/cdn/{sha256}?of={quote(rest)}"})
        else:
            self._send(source, size, f'"{git}"', fault, common)

    def _cdn(self, sha256: str, fault: Fault | None) -> None:
        for repository in self.hub.repositories.values():
            for source, known, _, size, _ in repository.files.values():
                if known == sha256:
                    self._send(source, size, f'"{known}"', fault, {"Accept-Ranges": "bytes"})
                    return
        self._answer(404, b"")

    def _send(self, source: Path, size: int, etag: str, fault: Fault | None, headers) -> None:
        kind = "" if fault is None else fault.kind
        if kind == "etag":
            etag = f'"changed-{time.monotonic_ns()}"'
        start = 0
        wanted = self.headers.get("range", "")
        if wanted.startswith("bytes=") and self.headers.get("if-range", etag) == etag:
            start = int(wanted[6:].split("-")[0])
            if start >= size:
                self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
                return
        self.send_response(206 if start else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("ETag", etag)
        if start:
            shown = start if kind != "range" else max(0, start - 7)
            self.send_header("Content-Range", f"bytes {shown}-{size - 1}/{size}")
        if kind == "endless":
            self.close_connection = True
        else:
            length = {"longer": size - start + 1, "shorter": fault.at}.get(kind) if fault is not None else None
            self.send_header("Content-Length", str(size - start if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self._body(source, size, start, fault)

    def _body(self, source: Path, size: int, start: int, fault: Fault | None) -> None:
        with self.hub.counting():
            self._write(source, size, start, fault)

    def _write(self, source: Path, size: int, start: int, fault: Fault | None) -> None:
        kind = "" if fault is None else fault.kind
        end = size
        if fault is not None and kind in ("cut", "shorter"):
            end = min(size, max(start, fault.at))
        with source.open("rb") as file, _ignored():
            if fault is None and end > start and not self.hub.pace:
                self.wfile.flush()
                self.hub.sent += self.connection.sendfile(file, start, end - start)
                return
            file.seek(start)
            position = start
            while position < end:
                piece = 1 if kind == "drip" else _PACED if self.hub.pace else _CHUNK
                data = file.read(min(piece, end - position))
                if kind == "other":
                    data = bytes(byte ^ 0x55 for byte in data)
                if fault is not None and kind == "flip" and position <= fault.at < position + len(data):
                    data = bytearray(data)
                    data[fault.at - position] ^= 1
                self.wfile.write(data)
                position += len(data)
                self.hub.sent += len(data)
                time.sleep(0.002 if kind == "drip" else self.hub.pace)
            if kind == "longer":
                self.wfile.write(b"x")
            while kind == "endless":
                self.wfile.write(bytes(_CHUNK))
        if end < size and kind != "shorter":
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()


class _ignored:
    """Ignore a client that goes away; the server is not at fault."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, value, trace) -> bool:
        return kind is not None and issubclass(kind, OSError)


def main() -> None:
    """``python -m support.hub [--pace SECONDS] REPOSITORY=FOLDER …``: prints the address, serves until stdin ends."""
    import sys

    hub = FakeHub()
    arguments = sys.argv[1:]
    if arguments[0] == "--pace":
        hub.pace = float(arguments[1])
        del arguments[:2]
    for argument in arguments:
        name, _, folder = argument.partition("=")
        hub.add(name, Path(folder))
    print(hub.url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
