"""What the tests of the hybrids share: a task that any network should learn in seconds."""

import pytest
import torch


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
