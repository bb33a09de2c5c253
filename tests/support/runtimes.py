"""Driving a runtime as the worker does: jobs for the tiny fixture, what they emit, and cancels at a given place.

conftest.py files import the fixtures that they need.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from locara_sidecar.engine.runtime import ImageEvent, JobCancelled, PhaseEvent, StepEvent, Summary, create
from locara_sidecar.ipc.frames import EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVIRONMENT = dict(os.environ)
FOLDER = Path(__file__).parents[2] / "fixtures" / "models" / "tiny-sd3"


def make_runtime(engine: str, scratch: Path) -> Any:
    """A cold runtime."""
    return create(engine, str(scratch), {})


def staged(runtime: Any, **changes: bool) -> Any:
    """The runtime, whose plans now say of components what ``changes`` does (``encoders_leave`` …)."""
    plan = runtime.warm._plan
    runtime.warm._plan = lambda *args: msgspec.structs.replace(plan(*args), **changes)
    return runtime


class Control:
    """Counts checkpoints; cancels at number ``at`` of phase ``phase`` (counted within the phase)."""

    def __init__(self, phase: str | None = None, at: int = 0) -> None:
        self._cancel = (phase, at)
        self.phase: str | None = None
        self.counts: dict[str | None, int] = {}

    def checkpoint(self) -> None:
        self.counts[self.phase] = self.counts.get(self.phase, 0) + 1
        if (self.phase, self.counts[self.phase]) == self._cancel:
            raise JobCancelled


@dataclass
class Result:
    """What a job emitted and returned."""

    control: Control
    events: list[Any] = field(default_factory=list)
    summary: Summary | None = None
    cancelled: bool = False

    @property
    def images(self) -> list[Any]:
        return [event.pixels for event in self.events if isinstance(event, ImageEvent)]

    @property
    def steps(self) -> list[StepEvent]:
        return [event for event in self.events if isinstance(event, StepEvent)]

    @property
    def phases(self) -> list[tuple[str, int]]:
        phases = [(event.phase, event.image) for event in self.events if isinstance(event, PhaseEvent)]
        return list(dict.fromkeys(phases))


def run_job(runtime: Any, spec: JobSpec, control: Control | None = None, on_event: Any = None) -> Result:
    """Drive a runtime as the worker does."""
    result = Result(control or Control())

    def emit(event: Any) -> None:
        if isinstance(event, PhaseEvent):
            result.control.phase = event.phase
        result.events.append(event)
        if on_event is not None:
            on_event(event)

    try:
        result.summary = runtime.generate(spec, emit, result.control)
    except JobCancelled:
        result.cancelled = True
    return result


@pytest.fixture(scope="module", autouse=True)
def as_before() -> Iterator[None]:
    """One torch thread, because models this small only lose time to threads that wait for each other; and afterwards
    the environment as it was, which the torch engine changes (a runtime of the whole session is made before this)."""
    torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(threads)
    for name in set(os.environ) - set(_ENVIRONMENT) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)


@pytest.fixture(scope="session", autouse=True)
def mlx_as_in_the_engine() -> None:
    """MLX on the device that the engine chooses: on a processor without a compiler, which runs at every new shape."""
    if importlib.util.find_spec("mlx"):
        from locara_sidecar.engine.mlx_engine.device import choose_device

        choose_device()


@pytest.fixture(scope="session")
def run() -> Any:
    return run_job


@pytest.fixture(scope="session")
def control() -> Any:
    return Control


@pytest.fixture(scope="session")
def folder() -> Path:
    return FOLDER


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the model that a test may break."""
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def make_job(**changes: Any) -> JobSpec:
    """A job; keyword arguments replace members of it, of its model or of its preview."""
    job = JobSpec(
        job="job-1",
        model=ModelSpec(
            id="tiny-sd3",
            version="1",
            digest="sha256:0",
            family="sd3",
            path=str(FOLDER),
            max_sequence_length=32,
            quantization="auto",
            precision="float32",
            sides=Sides(minimum=16, maximum=1024, multiple_of=16, max_pixels=1 << 20),
        ),
        prompt="a red circle on the blue square",
        negative_prompt="",
        width=64,
        height=64,
        steps=3,
        guidance=4.5,
        seed=7,
        count=1,
        scheduler="flow-match-euler",
        speed="exact",
        tiling="auto",
        preview=PreviewSpec(mode="off", every_steps=1, max_side=256, max_bytes=40_000, mime_type="image/webp"),
        output=EncodeSpec(mime_type="image/png", quality=90, metadata=None),
    )
    for name in ("model", "preview"):
        part = getattr(job, name)
        own = {key: changes.pop(key) for key in list(changes) if key in part.__struct_fields__ and key != name}
        job = msgspec.structs.replace(job, **{name: msgspec.structs.replace(part, **own)})
    return msgspec.structs.replace(job, **changes)


@pytest.fixture(scope="session")
def spec() -> Any:
    return make_job
