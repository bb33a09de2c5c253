"""The methods of a session: the handler of each, including those about the session itself."""

from __future__ import annotations

import importlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol import PROTOCOL_VERSION, jsonrpc
from locara_protocol import messages as m
from locara_protocol.image_messages import MAX_PROMPT_BYTES, CancelJobParams, CancelJobResult
from locara_protocol.methods import METHODS, NOTIFICATIONS
from locara_sidecar import __version__
from locara_sidecar.daemon import system
from locara_sidecar.daemon.access.app_warnings import unknown_members, useless_folders
from locara_sidecar.daemon.access.decisions import Decisions
from locara_sidecar.daemon.access.gate import Gate
from locara_sidecar.daemon.access.model_use import ModelUse
from locara_sidecar.daemon.access.sizes import MAX_INLINE_IMAGE_BYTES
from locara_sidecar.daemon.images.image_calls import ImageCalls
from locara_sidecar.daemon.images.picked_files import PickedFiles
from locara_sidecar.daemon.images.resolve import EXTENSIONS
from locara_sidecar.daemon.jobs.ended_jobs import EndedJobs
from locara_sidecar.daemon.jobs.in_flight import InFlight
from locara_sidecar.daemon.jobs.job_calls import JobCalls
from locara_sidecar.daemon.jobs.job_runner import JobContext, JobRunner
from locara_sidecar.daemon.jobs.jobs import JobQueue
from locara_sidecar.daemon.model_methods.engine_calls import EngineCalls, get_ready_to_prepare
from locara_sidecar.daemon.process import hostwatch
from locara_sidecar.daemon.session import Session
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.daemon.wire.server import OffLoopHandler
from locara_sidecar.daemon.wire.shared_work import SharedWork
from locara_sidecar.machine import engine_choice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from locara_sidecar.capability.descriptors import DescriptorSocket
    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.engine_host.lazy import LazyEngine
    from locara_sidecar.daemon.model_methods.model_calls import ModelCalls
    from locara_sidecar.daemon.wire.calls import Call, Calls
    from locara_sidecar.daemon.wire.outbox import Outbox
    from locara_sidecar.daemon.wire.server import Handler
    from locara_sidecar.models.catalogue import Catalogue

log = logging.getLogger("locara.server")


class Methods:
    """The methods of one session.

    :param policy: what was fixed at spawn, or None if ``initialize`` decides.
    :param flags: what the command line allowed.
    :param on_room: called when further calls may be accepted.
    :param stop: shuts the process down, with an exit status (thread-safe).
    :param start_task: starts a coroutine function with arguments in the daemon's task group.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        calls: Calls,
        engine: LazyEngine,
        engine_name: str,
        prefer_float16: bool = False,
        catalogue: Catalogue,
        policy: Policy | None,
        cache_root: Path,
        flags: frozenset[str] = frozenset(),
        descriptors: DescriptorSocket | None = None,
        max_queue: int,
        max_line_bytes: int,
        on_room: Callable[[], object],
        stop: Callable[[int, str], None],
        start_task: Callable[..., object],
    ) -> None:
        self._started = time.monotonic()
        self._outbox = outbox
        self._calls = calls
        self._engine = engine
        self._engine_name = engine_name
        self._cache_root = cache_root
        self._flags = flags
        self._shutting_down: Call | None = None
        self._model_calls: ModelCalls | None = None
        self._max_line_bytes = max_line_bytes
        self._max_queue = max_queue
        self._stop = stop
        self._start_task = start_task
        self.session = Session(policy)
        self.decisions = Decisions(self.session)
        self._jobs = JobQueue(max_queue)
        ended = EndedJobs()
        self._in_flight = InFlight(start_task, on_room)
        self._shared = SharedWork()
        self.is_full = self._in_flight.is_full
        """Whether too many calls are in flight to accept another; ``on_room`` is called when that changes."""
        self._runner = JobRunner(self._jobs, ended, outbox, self._in_flight, start_task)
        job_calls = JobCalls(self._jobs, ended, self._runner, calls, outbox)
        self.gate = Gate(
            catalogue.with_cache(cache_root),
            engine_name,
            self._policy,
            self.decisions.record,
            prefer_float16=prefer_float16,
        )
        use = ModelUse(self.gate, engine.status, start_task)
        shared = JobContext(outbox, engine, self.gate, use, self._in_flight, start_task)
        picked = PickedFiles(self.gate, self._in_flight, descriptors)
        images = ImageCalls(shared, self._runner, picked)
        engine_calls = EngineCalls(shared, self._jobs, self._runner)
        models = OffLoopHandler(self._look_at_models, self._model_call)
        about_all = OffLoopHandler(self._load_model_calls, self._model_call, keeps=True)  # each looks at its turn
        self.handlers: dict[str, Handler] = {
            "initialize": OffLoopHandler(self._look_before_opening, self._initialize, about=True),
            "ping": self._ping,
            "rpc.discover": OffLoopHandler(_document, self._discover, keeps=True),
            "system.info": self._system_info,
            "host.pickFile": OffLoopHandler(self._load_picked, _then(picked.pick)),
            "host.releaseFile": picked.release,
            "jobs.list": job_calls.list,
            "jobs.attach": job_calls.attach,
            "jobs.result": job_calls.result,
            "image.generate": OffLoopHandler(self._look, _then(images.generate)),
            "image.edit": OffLoopHandler(self._look, _then(images.edit)),
            "image.cancel": self._image_cancel,
            "audit.capabilityLog": OffLoopHandler(self.decisions.encoded, _give_found, about=True),
            "shutdown": self._shutdown,
            **{name: models for name in METHODS if name.startswith("models.")},
            "models.list": about_all,
            "models.usage": about_all,
            "models.load": OffLoopHandler(self._look, _then(engine_calls.load)),
            "models.prepare": OffLoopHandler(self._look_and_import, _then(engine_calls.prepare)),
            "models.unload": engine_calls.unload,
        }
        """By method."""

    def _policy(self) -> Policy:
        """The session's policy: what it may do, and what the host allowed at spawn."""
        return msgspec.structs.replace(self.session.policy, flags=self._flags)

    # --- the session itself --------------------------------------------------------------

    def _look_before_opening(self, params: m.InitializeParams) -> tuple[list[str], list[m.AppWarning]]:
        """Return the engines that are available, and warnings about the folders that will be granted."""
        engines = [engine.name for engine in engine_choice.engines(self._engine_name, None) if engine.available]
        return engines, useless_folders(self.session.policy_with(params))

    def _initialize(
        self, _call: Call, params: m.InitializeParams, seen: tuple[list[str], list[m.AppWarning]]
    ) -> m.InitializeResult:
        engines, useless = seen
        self.session.initialize(params)
        if self.session.process_id is not None:
            gone = partial(self._stop, 0, "the host process is gone")
            hostwatch.watch_process(self.session.process_id, gone, self._start_task)
        policy = self.session.policy
        log.info("session open", extra={"fields": {"app": policy.app_id, "granted": policy.granted()}})
        return m.InitializeResult(
            protocol_version=PROTOCOL_VERSION,
            server_info=m.ServerInfo(name="locara-sidecar", version=__version__),
            capabilities=m.ServerCapabilities(
                methods=list(METHODS),
                notifications=list(NOTIFICATIONS),
                engines=engines,
                image_formats=list(EXTENSIONS),
                limits=m.Limits(
                    max_line_bytes=self._max_line_bytes,
                    max_inline_image_bytes=MAX_INLINE_IMAGE_BYTES,
                    max_queue=self._max_queue,
                    max_batch=jsonrpc.DEFAULT_MAX_BATCH,
                    max_prompt_bytes=MAX_PROMPT_BYTES,
                ),
            ),
            app=m.AppInfo(id=policy.app_id, granted=policy.granted(), warnings=[*unknown_members(policy), *useless]),
        )

    def _ping(self, _call: Call, _params: m.NoParams) -> m.PingResult:
        return m.PingResult(
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            engine=self._engine.status(),
            jobs=self._jobs.counts(),
        )

    def _discover(self, _call: Call, _params: m.NoParams, document: msgspec.Raw) -> msgspec.Raw:
        return document

    def _system_info(self, call: Call, _params: m.NoParams) -> None:
        self._in_flight.answer(call, partial(self._shared.run, call.method, self._look_at_system))

    async def _look_at_system(self) -> m.SystemInfo:
        facts = system.facts_of(self._engine)
        return await off_loop(system.info, self._engine_name, self._cache_root, facts, abandon=True)

    def _shutdown(self, call: Call, _params: m.NoParams) -> m.Empty | None:
        self.session.state = "shutdown"
        if self._engine.status().state == "stopped" and not self._calls.others(call):
            return m.Empty()
        self.cancel_all()
        self._shutting_down = call
        self._start_task(self._answer_shutdown, call)
        return None

    async def _answer_shutdown(self, call: Call) -> None:
        try:
            await self.wait_until_idle()
            await self._engine.close()
        except Exception as error:  # noqa: BLE001 -- the unforeseen becomes the call's answer, too
            call.fail_unexpectedly(error)
        else:
            call.succeed(m.Empty())

    def shut_down(self) -> None:
        """Answer a pending ``shutdown`` because the process is ending anyway, for example because ``exit`` followed at
        once.
        """
        if self._shutting_down is not None and not self._shutting_down.answered:
            self._shutting_down.succeed(m.Empty())

    def leave(self) -> None:
        """Handle the host's ``exit``."""
        self._stop(0 if self.session.state == "shutdown" else 1, "exit")

    # --- models --------------------------------------------------------------------------

    def _look(self) -> None:
        self.decisions.get_ready()
        self.gate.look()

    def _look_and_import(self) -> None:
        self._look()
        get_ready_to_prepare()

    def _load_model_calls(self) -> type[ModelCalls]:
        from locara_sidecar.daemon.model_methods.model_calls import ModelCalls  # most sessions never ask for it

        self.decisions.get_ready()
        return ModelCalls

    def _look_at_models(self) -> type[ModelCalls]:
        self.gate.look()
        return self._load_model_calls()

    def _load_picked(self) -> None:
        importlib.import_module("locara_sidecar.capability.handed")  # and picked.py, which loads ctypes
        importlib.import_module("locara_sidecar.capability.descriptors")
        self.decisions.get_ready()

    def _model_call(self, call: Call, params: Any, made_by: type[ModelCalls]) -> None:
        if self._model_calls is None:
            self._model_calls = made_by(self._outbox, self.gate, self.session, self._in_flight)
        self._model_calls.accept(call, params)

    # --- cancelling ----------------------------------------------------------------------

    def _image_cancel(self, _call: Call, params: CancelJobParams) -> CancelJobResult:
        job = self._jobs.get(params.job_id)
        if job is not None:
            self._runner.cancel(job)
        return CancelJobResult(cancelled=job is not None)

    def cancel(self, request_id: int | str) -> None:
        """Cancel the long call of a request, if there is one."""
        self._in_flight.cancel(request_id)

    def cancel_all(self) -> None:
        """Cancel every long call."""
        self._in_flight.cancel_all()

    async def wait_until_idle(self) -> None:
        """Return when every long call has been answered."""
        await self._in_flight.wait_until_idle()


def _document() -> msgspec.Raw:
    from locara_protocol.generation import openrpc  # built on request: most sessions never ask

    return msgspec.Raw(openrpc.document_bytes())


def _give_found(_call: Call, _params: Any, found: msgspec.Raw) -> msgspec.Raw:
    """Answer with what was encoded off the loop."""
    return found


def _then(handler: Callable[[Call, Any], Any]) -> Callable[[Call, Any, Any], Any]:
    """Return the handler as a second step that ignores the first one's result."""
    return lambda call, params, _: handler(call, params)
