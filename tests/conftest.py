"""What tests share: reproducible property tests, one thread, no silent skip in CI, modules for oracles."""

from collections.abc import Callable

import hypothesis
import pytest
import torch
from torch import nn

from fourfold.training import seeded

from .skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# The same examples on every machine: a red test is then a change of ours, never luck.
hypothesis.settings.register_profile("fourfold", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fourfold")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def jolted():
    """Moves every weight and running average of a module, so that none of them can be mixed up unseen.

    Of a module in place; of what makes one, such as its class, in double precision and evaluation mode.
    """

    def moved(net: nn.Module | Callable[..., nn.Module], *sizes, by: float = 0.3, **how) -> nn.Module:
        if not isinstance(net, nn.Module):
            with seeded(0):
                net = net(*sizes, **how).double().eval()
        generator = torch.Generator().manual_seed(1)
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = by * torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.add_(noise.abs() if name.endswith(("running_var", "tau")) else noise)
        return net

    return moved
