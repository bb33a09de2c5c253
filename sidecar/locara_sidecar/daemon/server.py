"""From a line to what happens: dispatch in arrival order, on the event loop, without ever waiting.

Registering a request, ``initialize`` and cancels are complete before the next line is looked at; the work
of a long call goes on elsewhere. This is the one place where exceptions become wire errors.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol import PROTOCOL_VERSION, jsonrpc
from locara_protocol import messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.image_messages import MAX_PROMPT_BYTES, CancelJobParams, CancelJobResult, JobsListResult
from locara_protocol.methods import METHODS, NOTIFICATIONS, Method
from locara_sidecar import __version__
from locara_sidecar.daemon import engine_choice, hostwatch, system
from locara_sidecar.daemon.calls import Batch, Call, Calls
from locara_sidecar.daemon.decisions import Decisions
from locara_sidecar.daemon.image_calls import ImageCalls
from locara_sidecar.daemon.jobs import JobQueue
from locara_sidecar.daemon.load_calls import LoadCalls
from locara_sidecar.daemon.model_choice import ModelChoice
from locara_sidecar.daemon.model_use import ModelUse
from locara_sidecar.daemon.outbox import Channel, Outbox
from locara_sidecar.daemon.prepare_calls import PrepareCalls
from locara_sidecar.daemon.resolve import EXTENSIONS
from locara_sidecar.daemon.session import Session
from locara_sidecar.daemon.sizes import MAX_INLINE_IMAGE_BYTES
from locara_sidecar.daemon.turns import Shared, Turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.model_calls import ModelCalls
    from locara_sidecar.engine.lazy import LazyEngine
    from locara_sidecar.models.catalogue import Catalogue

log = logging.getLogger("locara.server")

_CANCELLING = frozenset({"$/cancelRequest", "$/cancel_request", "notifications/cancelled"})
_MAX_BATCH = jsonrpc.DEFAULT_MAX_BATCH


class Server:
    """One session's dispatcher.

    :param stop: ends the process in order, with an exit status (thread-safe).
    :param start_task: starts a coroutine function with arguments in the daemon's task group.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        engine: LazyEngine,
        engine_name: str,
        catalogue: Catalogue,
        policy: Policy | None,
        cache_root: Path,
        flags: frozenset[str] = frozenset(),
        max_queue: int,
        max_line_bytes: int,
        stop: Callable[[int, str], None],
        start_task: Callable[..., object],
    ) -> None:
        self._started = time.monotonic()
        self._outbox = outbox
        self._engine = engine
        self._engine_name = engine_name
        self._cache_root = cache_root
        self._catalogue = catalogue = catalogue.with_cache(cache_root)
        self._flags = flags
        self._model_calls: ModelCalls | None = None
        self._max_line_bytes = max_line_bytes
        self._max_queue = max_queue
        self._stop = stop
        self._start_task = start_task
        self.session = Session(policy)
        self.calls = Calls(outbox)
        self.decisions = Decisions(self.session)
        self.jobs = JobQueue(max_queue)
        self.turns = Turns(self.jobs, start_task)
        self.models = ModelChoice(catalogue, engine_name, self._policy, self.decisions.record)
        use = ModelUse(catalogue, engine_name, engine.status, start_task)
        shared = Shared(outbox, engine, self.models, use, start_task)
        images = ImageCalls(shared, self.turns)
        self._loads = LoadCalls(shared, self.jobs, self.turns)
        preparing = PrepareCalls(shared, self.turns)
        self._handlers: dict[str, Callable[[Call, Any], Any]] = {
            "initialize": self._initialize,
            "ping": self._ping,
            "rpc.discover": self._discover,
            "system.info": self._system_info,
            "jobs.list": self._jobs_list,
            "image.generate": images.generate,
            "image.edit": images.edit,
            "image.cancel": self._image_cancel,
            "audit.capabilityLog": self.decisions.list,
            "shutdown": self._shutdown,
            **{name: self._model_call for name in METHODS if name.startswith("models.")},
            "models.load": self._loads.load,
            "models.prepare": preparing.prepare,
            "models.unload": self._loads.unload,
        }
        if self._handlers.keys() != METHODS.keys():
            raise RuntimeError(f"methods and handlers differ: {self._handlers.keys() ^ METHODS.keys()}")

    def _policy(self) -> Policy:
        """What the session may do, and what the host allowed at spawn."""
        return msgspec.structs.replace(self.session.policy, flags=self._flags)

    # --- dispatch ------------------------------------------------------------------------

    def handle_line(self, line: bytes) -> None:
        """One line of the wire, without its line ending. Never raises."""
        decoded = jsonrpc.decode_line(line)
        if not isinstance(decoded, jsonrpc.Batch):
            self._entry(decoded, None)
            return
        batch = Batch(self._outbox)
        for entry in decoded.entries:
            self._entry(entry, batch)
        batch.done()

    def handle_long_line(self) -> None:
        """A line that was over the limit and has been skipped."""
        self._entry(jsonrpc.line_too_long(self._max_line_bytes), None)

    def _entry(self, entry: jsonrpc.Entry, batch: Batch | None) -> None:
        if isinstance(entry, jsonrpc.Request):
            self._request(entry, batch)
        elif isinstance(entry, jsonrpc.Notification):
            self._notification(entry, batch)
        elif isinstance(entry, jsonrpc.Invalid):
            self._refuse(entry.id, entry.error, batch)
        else:
            log.warning("a response to nothing was ignored")

    def _refuse(self, request_id: int | str | None, error: RpcError, batch: Batch | None) -> None:
        """Answer something that never became a call."""
        log.info("message refused", extra={"fields": {"kind": error.kind}})
        line = jsonrpc.encode_error(request_id, error)
        if batch is None:
            self._outbox.answer(line)
        else:
            batch.expect()
            batch.add(line)

    def _request(self, request: jsonrpc.Request, batch: Batch | None) -> None:
        if self.calls.get(request.id) is not None:
            self._refuse(request.id, RpcError("InvalidRequest", "A request with this id is still running."), batch)
            return
        if batch is not None:
            batch.expect()
        call = self.calls.open(request.id, request.method, batch)
        try:
            method = METHODS.get(request.method)
            self.session.admit(method)
            if method is None:
                raise RpcError("MethodNotFound", "There is no method of this name.")
            if batch is not None and not method.in_batch:
                raise RpcError("InvalidRequest", f"{method.name} cannot stand in a batch.")
            self._open_channel(call, method, request.params)
            params = jsonrpc.decode_params(method.params, request.params)
            result = self._handlers[method.name](call, params)
            if result is not None:
                call.succeed(result)
        except RpcError as error:
            call.fail(error)
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            call.fail_unexpectedly(error)

    def _open_channel(self, call: Call, method: Method, params: bytes) -> None:
        if method.notification is None:
            return
        channel_id = jsonrpc.channel_of(params)
        if channel_id is None:
            return
        if self.calls.channel_in_use(channel_id):
            raise invalid_params("$.channel", "A running call uses this channel; use another number.")
        call.channel = Channel(channel_id, method.notification)

    def _notification(self, note: jsonrpc.Notification, batch: Batch | None) -> None:
        if note.method == "exit":
            if batch is not None:
                self._refuse(None, RpcError("InvalidRequest", "exit cannot stand in a batch."), batch)
                return
            self._stop(0 if self.session.state == "shutdown" else 1, "exit")
        elif self.session.state != "open":
            log.debug("a notification was dropped", extra={"fields": {"state": self.session.state}})
        elif note.method in _CANCELLING:
            self._cancel_request(note)
        elif note.method not in NOTIFICATIONS:
            log.debug("an unknown notification was ignored")

    def _cancel_request(self, note: jsonrpc.Notification) -> None:
        try:
            type_ = m.CancelledParams if note.method == "notifications/cancelled" else m.CancelRequestParams
            params = jsonrpc.decode_params(type_, note.params)
        except RpcError as error:
            log.warning("a cancel was ignored", extra={"fields": {"kind": error.kind, "path": error.data.get("path")}})
            return
        request_id = params.id if isinstance(params, m.CancelRequestParams) else params.request_id
        job = self.jobs.by_request(request_id)
        if job is not None:
            self.turns.cancel(job)
        elif self._model_calls is not None:
            self._model_calls.cancel(request_id)

    # --- methods -------------------------------------------------------------------------

    def _initialize(self, call: Call, params: m.InitializeParams) -> m.InitializeResult:
        self.session.initialize(params)
        if self.session.process_id is not None:
            hostwatch.watch_process(self.session.process_id, lambda: self._stop(0, "the host process is gone"))
        policy = self.session.policy
        log.info("session open", extra={"fields": {"app": policy.app_id, "granted": policy.granted()}})
        return m.InitializeResult(
            protocol_version=PROTOCOL_VERSION,
            server_info=m.ServerInfo(name="locara-sidecar", version=__version__),
            capabilities=m.ServerCapabilities(
                methods=list(METHODS),
                notifications=list(NOTIFICATIONS),
                engines=[engine.name for engine in engine_choice.engines(self._engine_name, None) if engine.available],
                image_formats=list(EXTENSIONS),
                limits=m.Limits(
                    max_line_bytes=self._max_line_bytes,
                    max_inline_image_bytes=MAX_INLINE_IMAGE_BYTES,
                    max_queue=self._max_queue,
                    max_batch=_MAX_BATCH,
                    max_prompt_bytes=MAX_PROMPT_BYTES,
                ),
            ),
            app=m.AppInfo(id=policy.app_id, granted=policy.granted()),
        )

    def _ping(self, call: Call, params: m.NoParams) -> m.PingResult:
        return m.PingResult(
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            engine=self._engine.status(),
            jobs=self.jobs.counts(),
        )

    def _discover(self, call: Call, params: m.NoParams) -> msgspec.Raw:
        from locara_protocol import openrpc  # built when asked for: most sessions never do

        return msgspec.Raw(openrpc.document_bytes())

    def _system_info(self, call: Call, params: m.NoParams) -> m.SystemInfo:
        return system.info(self._engine_name, self._engine, self._cache_root)

    def _jobs_list(self, call: Call, params: m.NoParams) -> JobsListResult:
        return JobsListResult(jobs=[job.info() for job in self.jobs.all()])

    def _image_cancel(self, call: Call, params: CancelJobParams) -> CancelJobResult:
        job = self.jobs.get(params.job_id)
        if job is not None:
            self.turns.cancel(job)
        return CancelJobResult(cancelled=job is not None)

    def _shutdown(self, call: Call, params: m.NoParams) -> m.Empty | None:
        self.session.state = "shutdown"
        if self._engine.status().state == "stopped" and not self.calls.others(call):
            return m.Empty()
        self.cancel_all()
        self._start_task(self._answer_shutdown, call)
        return None

    async def _answer_shutdown(self, call: Call) -> None:
        await self.wait_until_idle()
        await self._engine.close()
        call.succeed(m.Empty())

    def _model_call(self, call: Call, params: Any) -> Any:
        if self._model_calls is None:
            from locara_sidecar.daemon.model_calls import ModelCalls  # most sessions never ask

            self._model_calls = ModelCalls(
                outbox=self._outbox,
                catalogue=self._catalogue,
                engine_name=self._engine_name,
                session=self.session,
                flags=self._flags,
                record=self.decisions.record,
                start_task=self._start_task,
            )
        return self._model_calls.accept(call, params)

    # --- ending --------------------------------------------------------------------------

    def cancel_all(self) -> None:
        """Cancel every long call."""
        self.turns.cancel_all()
        if self._model_calls is not None:
            self._model_calls.cancel_all()

    async def wait_until_idle(self) -> None:
        """Return when every long call has been answered."""
        await self.turns.wait_until_idle()
        await self._loads.wait_until_idle()
        if self._model_calls is not None:
            await self._model_calls.wait_until_idle()
