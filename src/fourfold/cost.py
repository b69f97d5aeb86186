"""What a module costs: parameters, multiply-accumulates, and how a cost grows with size.

Counting needs no memory: a model of any size can be built without weights, ``with torch.device("meta"):
model = make()``, and both counts work on it. What a module computes is counted, not what a paper says.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Fit(NamedTuple):
    """A power law, cost = factor * size^slope, with the 95 % interval low .. high of the slope."""

    slope: float
    low: float
    high: float
    factor: float


def parameters(module: nn.Module) -> int:
    """Number of trainable values; a parameter that is used twice counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, without computing it.

    An input that is a tuple is the shape of a float tensor, batch included; any other is passed as it is.
    ``module`` is left alone: its twin runs on torch's meta device, so it must not read values of tensors nor
    keep tensors besides parameters and buffers.
    Counts matrix products, convolutions and attention (``torch.utils.flop_counter``, two operations each).
    Not counted: biases, norms, activations, pooling, FFTs, ``grid_sample``; a complex product counts once,
    not as the four real ones it takes. Raises ``ValueError`` for a shape that is not of sizes >= 1.
    """
    for shape in inputs:
        if isinstance(shape, tuple) and not all(isinstance(n, int) and n >= 1 for n in shape):
            raise ValueError(f"a shape must be a tuple of sizes >= 1, got {shape}")
    # The gradient stays on: without it torch takes fused paths that its counter does not know.
    twin = copy.deepcopy(module, _without_values(module)).eval()
    with FlopCounterMode(display=False) as counter:
        twin(*(torch.empty(x, device="meta") if isinstance(x, tuple) else x for x in inputs))
    return counter.get_total_flops() // 2


def table(models: Mapping[str, Callable[[], nn.Module]], *inputs: Any) -> pd.DataFrame:
    """Parameters and MACs of whole models, a row per name, without ever holding their weights.

    Each is made on torch's meta device, so a paper's largest model takes no memory. ``inputs`` as in `macs`.
    """
    rows = {}
    for name, make in models.items():
        with torch.device("meta"):
            model = make()
        rows[name] = {"parameters": parameters(model), "macs": macs(model, *inputs)}
    return pd.DataFrame.from_dict(rows, orient="index")


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> Fit:
    """The exponent with which costs grow: least squares of log cost on log size, 95 % t interval.

    Raises ``ValueError`` for fewer than 3 points, sizes that are all the same, or numbers that are not > 0.
    """
    if len(sizes) != len(costs) or len(sizes) < 3:
        raise ValueError(f"a slope needs >= 3 points, got {len(sizes)} sizes and {len(costs)} costs")
    for name, values in (("sizes", sizes), ("costs", costs)):
        if not all(0 < value < np.inf for value in values):
            raise ValueError(f"{name} must be finite and > 0, got {list(values)}")
    if len(set(sizes)) == 1:
        raise ValueError(f"sizes must differ, got {list(sizes)}")
    x, y = np.log(sizes), np.log(costs)
    from_mean, freedom = x - x.mean(), len(x) - 2
    slope = float(from_mean @ y / (from_mean @ from_mean))
    intercept = float(y.mean() - slope * x.mean())
    residual = y - intercept - slope * x
    error = np.sqrt(residual @ residual / freedom / (from_mean @ from_mean))
    half = float(stats.t.ppf(0.975, freedom) * error)
    return Fit(slope, slope - half, slope + half, float(np.exp(intercept)))


def _without_values(module: nn.Module) -> dict[int, Any]:
    """For ``deepcopy``: what each tensor of the module becomes, the same without memory behind it."""
    twins: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        twins[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        twins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return twins
