"""Where the torch engine can stop inside diffusers' modules."""

import contextlib

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.engine.torch_engine import devices
from locara_sidecar.engine.torch_engine.denoising.hooks import Checkpoints

pytestmark = pytest.mark.torch


def test_hooks_sit_on_list_members_and_convolutions_once_each(control):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Identity(), nn.Dropout()])
            self.blocks.append(None)  # as diffusers does for an omitted attention
            self.last = nn.Linear(4, 4)

        def forward(self, x):
            for block in self.blocks:
                x = x if block is None else block(x)
            return self.last(x)

    checkpoints, counter, net = Checkpoints("cpu"), control(), Net()
    checkpoints.install(net)
    with checkpoints.armed(counter):
        net(torch.zeros(1, 3, 4, 4))
    assert counter.counts == {None: 2}
    with pytest.raises(JobCancelled), checkpoints.armed(control(None, 2)):
        net(torch.zeros(1, 3, 4, 4))
    net(torch.zeros(1, 3, 4, 4))
    assert counter.counts == {None: 2}


def test_on_an_accelerator_the_parts_of_a_transformer_block_have_no_hooks():
    config = {
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    }
    config |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 32}
    unet = UNet2DConditionModel(**config, attention_head_dim=8)
    Checkpoints("cuda").install(unet)
    hooked = {path for path, module in unet.named_modules() if module._forward_pre_hooks}
    blocks = {path for path, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)}
    convolutions = {path for path, module in unet.named_modules() if isinstance(module, nn.Conv2d)}
    assert blocks | convolutions <= hooked
    assert not [path for path in hooked if any(path.startswith(f"{block}.") for block in blocks)]


@pytest.mark.parametrize(("device", "most"), [("cuda", 7), ("mps", 7), ("cpu", 100)])
def test_python_runs_at_most_two_groups_of_blocks_ahead_of_the_device(monkeypatch, device, most):
    """The device is slow: it has done nothing until somebody waits for it."""
    ticks, done = 0, 0

    class Event:
        def record(self):
            self.place = ticks

        def synchronize(self):
            nonlocal done
            done = self.place

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.mps, "Event", Event, raising=False)
    fence = devices.Fence(device)
    ahead = 0
    for ticks in range(1, 101):
        fence.tick()
        ahead = max(ahead, ticks - done)
    assert ahead == most


def test_a_job_tells_of_its_work_where_it_could_stop(control):
    class Waiting:
        begun = ticks = ended = 0

        def begin(self):
            self.begun += 1

        def tick(self):
            self.ticks += 1

        def end(self):
            self.ended += 1

    waiting = Waiting()
    checkpoints, net = Checkpoints("cpu", waiting), nn.ModuleList([nn.Identity(), nn.Identity()])
    checkpoints.install(net)
    for layer in net:
        layer(torch.zeros(1))
    assert (waiting.begun, waiting.ticks, waiting.ended) == (0, 0, 0)
    with checkpoints.armed(control()):
        for layer in net:
            layer(torch.zeros(1))
        assert (waiting.begun, waiting.ticks, waiting.ended) == (1, 2, 0)
    with contextlib.suppress(ZeroDivisionError), checkpoints.armed(control()):
        raise ZeroDivisionError
    assert (waiting.begun, waiting.ticks, waiting.ended) == (2, 2, 2)
