"""Reproducible draws for tests."""

import torch


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normal numbers of this shape, always the same ones for a seed."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
