"""Where the torch engine can stop inside diffusers' modules."""

import pytest
import torch
from torch import nn

from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.engine.torch_engine.hooks import Checkpoints

pytestmark = pytest.mark.torch


def test_hooks_sit_on_list_members_and_convolutions_once_each(control):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Identity(), nn.Dropout()])
            self.blocks.append(None)  # as diffusers does for an attention that is left out
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
