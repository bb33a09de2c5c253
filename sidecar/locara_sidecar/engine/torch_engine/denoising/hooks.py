"""The three places where the engine modifies diffusers' own loop, each undone afterwards.

- :class:`Checkpoints`: forward pre-hooks on blocks, so that a job can stop within a step.
- :func:`observed_steps`: wraps a scheduler's ``step`` to report each finished step and its predicted clean latent.
- :func:`drawing_from`: replaces ``randn_tensor`` where the pipelines use it, so that noise comes from our stream.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from locara_sidecar.engine.torch_engine.devices import Fence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locara_sidecar.engine.drawing.noise import NoiseStream
    from locara_sidecar.engine.runtime import Control
    from locara_sidecar.engine.torch_engine.waiting import Waiting

_WITHIN_A_BLOCK = ("net", "to_out")  # the lists in diffusers' feed-forward and attention layers

OnStep = Callable[[int, int, torch.Tensor], None]
"""Arguments: the step (from 1), the number of steps that really run, and x0 in float32."""


class Checkpoints:
    """Pre-hooks that call the running job's :meth:`Control.checkpoint`; inert between jobs and in other threads.

    They are on every member of a ``ModuleList`` (transformer blocks, encoder layers, feed-forward parts, residual
    blocks) and on every convolution, since each can take seconds in an autoencoder. On an accelerator there are none
    inside a transformer block: the block is fast there, and where the device waits for Python, the time of each hook
    adds up (SDXL's UNet has 159 hooks instead of 439).
    """

    def __init__(self, device: str, waiting: Waiting | None = None) -> None:
        """Create the hooks without installing them.

        :param waiting: ticked at every checkpoint.
        """
        self._fine = device == "cpu"
        self._waiting = waiting
        self._fence = Fence(device)
        self._control: Control | None = None
        self._thread = 0

    def install(self, root: nn.Module, whole: Iterable[nn.Module] = ()) -> None:
        """Add hooks to ``root``, for as long as it exists.

        :param whole: compiled parts: these may get a hook, but nothing inside them does.
        """
        inside = {part for one in whole for part in one.modules() if part is not one}
        members: set[nn.Module] = set()
        for path, module in cast("Iterator[tuple[str, nn.Module]]", root.named_modules()):
            if isinstance(module, nn.ModuleList):
                if not self._fine and path.rpartition(".")[2] in _WITHIN_A_BLOCK:
                    continue
                # children() skips None, which an autoencoder's list may contain
                members.update(child for child in module.children() if not isinstance(child, nn.Dropout))
            elif isinstance(module, nn.Conv2d):
                members.add(module)
        for member in members - inside:
            member.register_forward_pre_hook(self._before)

    @contextlib.contextmanager
    def armed(self, control: Control) -> Generator[None, None, None]:
        """Within the block, let the hooks call ``control`` in this thread."""
        self._control, self._thread = control, threading.get_ident()
        self._fence.reset()
        if self._waiting is not None:
            self._waiting.begin()
        try:
            yield
        finally:
            self._control = None
            self._fence.reset()
            if self._waiting is not None:
                self._waiting.end()

    def _before(self, module: nn.Module, args: Any) -> None:
        del module, args
        control = self._control
        if control is not None and threading.get_ident() == self._thread:
            self._fence.tick()
            if self._waiting is not None:
                self._waiting.tick()
            control.checkpoint()


@contextlib.contextmanager
def observed_steps(scheduler: Any, on_step: OnStep) -> Generator[None, None, None]:
    """Call ``on_step`` after every finished step of a scheduler, counted from where the loop begins.

    An edit skips the first steps. Schedulers of the Karras kind return the predicted clean latent along with the
    result; DPM-Solver++ keeps it for later steps. Flow matching moves along straight lines
    ``x = (1 - sigma) x0 + sigma noise`` with velocity ``noise - x0`` (Liu et al., 2022, arXiv:2209.03003), so there it
    is ``x - sigma * velocity``. All of them are after guidance. The scheduler's result is passed on unchanged.
    """
    step = scheduler.step

    def observed(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = step(model_output, timestep, sample, *args, **kwargs)
        begin: int = scheduler.begin_index or 0
        done: int = scheduler.step_index
        if len(result) > 1:
            x0 = result[1].float()
        elif hasattr(scheduler, "model_outputs"):
            x0 = scheduler.model_outputs[-1].float()
        else:
            x0 = sample.float() - scheduler.sigmas[done - 1] * model_output.float()
        on_step(done - begin, len(scheduler.timesteps) - begin, x0)
        return result

    scheduler.step = observed
    try:
        yield
    finally:
        del scheduler.step


@contextlib.contextmanager
def drawing_from(stream: NoiseStream, *modules: str) -> Generator[None, None, None]:
    """Within the block, ``randn_tensor`` in the named (imported) modules draws from ``stream``.

    Noise is drawn in float32 on the CPU and then converted, so that it is the same on every device.
    """

    def randn_tensor(
        shape: tuple[int, ...] | list[int],
        generator: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        layout: Any = None,
    ) -> torch.Tensor:
        del generator, layout
        return torch.tensor(stream.normal(tuple(shape)), device=device, dtype=dtype)

    replaced = {name: vars(sys.modules[name])["randn_tensor"] for name in modules}
    for name in modules:
        vars(sys.modules[name])["randn_tensor"] = randn_tensor
    try:
        yield
    finally:
        for name, original in replaced.items():
            vars(sys.modules[name])["randn_tensor"] = original
