"""Rounding: the order of a sum."""

import math

import torch


def numbers(terms: int, seed: int) -> torch.Tensor:
    """Numbers that are the same in single and in double precision, (terms,), float64."""
    return torch.rand(terms, generator=torch.Generator().manual_seed(seed)).double()


def error(values: torch.Tensor) -> float:
    """Distance of torch's sum of squares, which its threads share, from the exact one, in units of 2^-24."""
    exact = math.fsum(value * value for value in values.double().tolist())
    return abs(float(values @ values) - exact) / (exact * 2**-24)
