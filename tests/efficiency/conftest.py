"""What tests of this part share."""

import pytest
import torch
from torch import nn


@pytest.fixture
def jolted():
    """A function that draws weights, biases and averages of every norm at random: none is mixed up unseen."""

    def jolt(net: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                    for name, value in module.state_dict().items():
                        if value.is_floating_point():
                            centre = 1 if name in ("weight", "running_var") else 0
                            value.copy_(torch.rand(value.shape, generator=generator) - 0.5 + centre)
        return net.eval()

    return jolt
