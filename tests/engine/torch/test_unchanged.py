"""What is the same in every step is computed once, and nothing of it is left behind."""

import contextlib
import inspect

import pytest
import torch
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import nn

from locara_sidecar.engine.torch_engine.denoising.unchanged import computed_once, describe_processors

pytestmark = pytest.mark.torch


class Denoiser(nn.Module):
    """A part of that name that counts its calls."""

    def __init__(self):
        super().__init__()
        self.context_embedder = nn.Linear(2, 3)
        self.calls = 0
        self.context_embedder.register_forward_pre_hook(lambda *_: None)  # a hook runs at every call

        def counted(x, forward=self.context_embedder.forward):
            self.calls += 1
            return forward(x)

        self.context_embedder.forward = counted


def test_the_same_tensor_is_projected_once_and_another_anew():
    denoiser = Denoiser()
    one, other = torch.ones(1, 2), torch.zeros(1, 2)
    own = denoiser.context_embedder.forward
    with computed_once(denoiser):
        first = denoiser.context_embedder(one)
        assert denoiser.context_embedder(one) is first
        assert denoiser.calls == 1
        assert torch.equal(denoiser.context_embedder(other), denoiser.context_embedder.bias[None])
        assert torch.equal(denoiser.context_embedder(one), first)
        assert denoiser.calls == 3
    assert denoiser.context_embedder.forward is own


def test_afterwards_the_part_is_as_before_even_after_an_error():
    denoiser = Denoiser()
    del denoiser.context_embedder.forward  # the class's method is left
    with contextlib.suppress(ZeroDivisionError), computed_once(denoiser):
        assert "forward" in vars(denoiser.context_embedder)
        raise ZeroDivisionError
    assert "forward" not in vars(denoiser.context_embedder)
    with computed_once(nn.Identity()):  # without such a part
        pass


@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-flux"])
def test_a_pipeline_projects_its_prompt_once_a_picture(runtimes, run, job_for, monkeypatch, model):
    """diffusers passes the same tensor to every step, which it need not do for ever."""
    runtime, calls = runtimes(model), []
    run(runtime, job_for(model, steps=1))
    embedder = runtime.opened.family.module("transformer").context_embedder
    monkeypatch.setattr(embedder, "forward", lambda x: calls.append(1) or type(embedder).forward(embedder, x))
    run(runtime, job_for(model, steps=3, count=2))
    assert len(calls) == 2


def test_a_processors_parameters_are_looked_up_once(monkeypatch):
    module = nn.ModuleList([Attention(8, heads=1, dim_head=8, processor=JointAttnProcessor2_0()), nn.Identity()])
    processor = module[0].processor
    x = torch.ones(1, 2, 8)
    before, names = module[0](x), inspect.signature(processor.__call__).parameters
    describe_processors(module)
    describe_processors(module)
    assert inspect.signature(processor.__call__).parameters == names
    monkeypatch.setattr(inspect, "_signature_from_function", None)
    assert list(inspect.signature(processor.__call__).parameters) == list(names)
    assert torch.equal(module[0](x), before)


def test_nothing_is_recorded_for_gradients(runtime, run, spec):
    result = run(runtime, spec())
    assert result.steps[-1].x0.is_inference()
