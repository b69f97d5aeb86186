"""What the tests of the hybrids share: modules for oracles, and a task that any network learns in seconds."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fourfold.training import Trained, seeded


@pytest.fixture(scope="session")
def jolted():
    """Makes a module, double precision and evaluation mode, of which nothing is as it starts.

    Every weight and running average is moved, so that none of them can be mixed up unseen.
    """

    def made(make: Callable[..., nn.Module], *sizes, by: float = 0.3, **how) -> nn.Module:
        with seeded(0):
            net = make(*sizes, **how).double().eval()
        generator = torch.Generator().manual_seed(1)
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = by * torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.add_(noise.abs() if name.endswith(("running_var", "tau")) else noise)
        return net

    return made


@pytest.fixture(scope="session")
def bars():
    """Draws (n, 1, 16, 16) images and their labels, half and half."""

    def drawn(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise with a bar, upright (1) or lying (0)."""
        generator = torch.Generator().manual_seed(seed)
        x, labels = 0.3 * torch.randn(n, 1, 16, 16, generator=generator), torch.arange(n) % 2
        for image, label in zip(x, labels, strict=True):
            at = int(torch.randint(12, (1,), generator=generator))
            (image[0, :, at : at + 2] if label else image[0, at : at + 2]).add_(3)
        return x, labels

    return drawn


@pytest.fixture(scope="session")
def learns_only_from_labels():
    """Checks a training on 80 images of two classes, half and half in turn."""

    def check(learned: Callable[..., Trained]) -> None:
        """``learned``: trains with the labels given, or with the true ones."""
        first, again = learned(), learned()
        assert torch.equal(first.loss, again.loss)
        assert float(first.accuracy[0, -1]) > 0.9
        nothing = learned(torch.arange(80) // 2 % 2)
        assert abs(float(nothing.accuracy[0, -1]) - 0.5) < 0.3

    return check
