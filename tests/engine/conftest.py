"""Shared by the engine's tests: job descriptions, and a client that is always closed."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager

import anyio
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.transport.process import ChildProcess
from locara_sidecar.ipc import frames
from support.engines import Engines, FakeEngine


def _spec(job="job-1", prompt="a lighthouse", *, preview=None, output=None, model="pocket", **members):
    fields = {
        "job": job,
        "model": frames.ModelSpec(
            id=model, version="1", digest="sha256:0", family="sd3", path="/nowhere", max_sequence_length=77,
            quantization="auto", precision="auto",
            sides=frames.Sides(minimum=16, maximum=4096, multiple_of=8, max_pixels=1 << 24),
        ),
        "prompt": prompt, "negative_prompt": "", "width": 128, "height": 96, "steps": 4, "guidance": 4.0,
        "seed": 7, "count": 1, "scheduler": "flow-match-euler", "speed": "exact", "tiling": "off",
        "preview": frames.PreviewSpec(
            **({"mode": "linear", "every_steps": 1, "max_side": 64, "max_bytes": 4096, "mime_type": "image/webp"}
               | (preview or {}))
        ),
        "output": frames.EncodeSpec(
            **({"mime_type": "image/png", "quality": 90, "metadata": {"prompt": prompt}} | (output or {}))
        ),
    }  # fmt: skip
    return frames.JobSpec(**(fields | members))


class Client(EngineClient):
    """The real client; it records the events of each job and every log record."""

    def __init__(self, transport, **options):
        self.logs = []
        self.log_seen = anyio.Event()
        self.events = []
        self.transport = transport
        settings = {"step_ms": "20", "load_ms": "20", "decode_ms": "5"} | options.pop("settings", {})
        options = {"engine": "fake"} | options
        super().__init__(on_log=self._log, settings=settings, transport=transport, **options)

    @property
    def started(self):
        """The engines started so far (in-memory ones only)."""
        return self.transport.started

    @property
    def connection(self):
        """The current engine."""
        return self._supervisor.connection

    @property
    def gone(self):
        """The event that is set when there is no engine."""
        return self._supervisor.gone

    def _log(self, record):
        self.logs.append(record)
        self.log_seen.set()

    async def make(self, spec, when=None, then=None):
        """Run ``spec``; call ``then`` at the first event for which ``when`` is true."""
        self.events = []
        waiting = when is not None

        def on_event(event):
            nonlocal waiting
            self.events.append(event)
            if waiting and when(event):
                waiting = False
                then()

        return await self.run(spec, on_event)

    async def fails(self, spec, when=None, then=None):
        """Run ``spec``, which must fail; return the error."""
        with pytest.raises(RpcError) as caught:
            await self.make(spec, when, then)
        return caught.value

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def prefix(monkeypatch, tmp_path):
    """The folder that engines are started from, in that of a bundle."""
    folder = tmp_path / "python"
    folder.mkdir()
    (tmp_path / "bundle.json").write_text("{}")
    monkeypatch.setattr(sys, "prefix", str(folder))
    monkeypatch.setattr(program, "_first", [])
    program.begin()
    return folder


@pytest.fixture
def spec():
    return _spec


def _drive(body, transport, options):
    @asynccontextmanager
    async def opened():
        client = Client(transport, **options)
        try:
            yield client
        finally:
            await client.close()

    async def main():
        with anyio.fail_after(20):
            async with opened() as client:
                return await body(client)

    return anyio.run(main)


@pytest.fixture
def drive():
    """Run an async test body with a client, under a deadline.

    ``engine`` makes what is behind the in-memory connection; the fake engine by default.
    """

    def run(body, engine=FakeEngine, **options):
        return _drive(body, Engines(engine), options)

    return run


@pytest.fixture
def drive_process():
    """The same, with engines in child processes. ``argv`` replaces the worker's command."""

    def run(body, argv=None, **options):
        return _drive(body, ChildProcess(argv), options)

    return run
