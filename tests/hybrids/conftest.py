"""What the tests of the hybrids share: a task that any network should learn in seconds, and that it does."""

from collections.abc import Callable

import pytest
import torch

from fourfold.training import Trained


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
