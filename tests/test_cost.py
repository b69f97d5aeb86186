"""Cost: counts against closed forms, without touching or filling the module, and exponents with intervals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from fourfold.cost import exponent, macs, parameters, table


class Attention(nn.Module):
    def forward(self, x):
        return scaled_dot_product_attention(x, x, x)


class Mask(nn.Module):
    """A complex product between two FFTs, as spectral mixers have; takes the size besides the tokens."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 7, dtype=torch.complex64))
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x, height, width):
        x = torch.fft.rfft2(x.unflatten(1, (height, width)), dim=(1, 2))
        return torch.fft.irfft2(x @ self.weight, s=(height, width), dim=(1, 2)) * self.scale


COUNTED = [
    (nn.Linear(5, 7), [(2, 3, 5)], 5 * 7 + 7, 2 * 3 * 5 * 7),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), [(2, 4, 8, 8)], 6 * 4 * 9 + 6, 2 * 16 * 6 * 4 * 9),
    (nn.Conv2d(4, 4, 7, padding=3, groups=4), [(1, 4, 8, 8)], 4 * 49 + 4, 64 * 4 * 49),
    (nn.Conv2d(4, 8, 1, groups=2, bias=False), [(1, 4, 5, 7)], 16, 35 * 16),
    (nn.Conv3d(2, 3, 3, padding=1, bias=False), [(1, 2, 1, 8, 8)], 3 * 2 * 27, 64 * 3 * 2 * 27),
    (Attention(), [(2, 3, 10, 8)], 0, 2 * (2 * 3) * 10 * 10 * 8),
    (
        nn.MultiheadAttention(12, 3, batch_first=True),
        [(2, 5, 12)] * 3,
        4 * 12 * 12 + 4 * 12,
        2 * (4 * 5 * 12 * 12 + 2 * 5 * 5 * 12),
    ),
    (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        [(3, 5, 8)],
        4 * 8 * 8 + 4 * 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8,
        3 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16),
    ),
    (nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten()), [(1, 1, 1, 1)], 3 + 3 + 6, 3),
    (Mask(), [(2, 12, 5), 4, 3], 35, 2 * 4 * 2 * 35),
]


@pytest.mark.parametrize(("module", "inputs", "weights", "products"), COUNTED)
def test_counts_are_the_closed_forms(module, inputs, weights, products):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert parameters(module) == weights
    assert macs(module, *inputs) == products
    assert module.training
    for name, value in module.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])
    assert macs(module.to("meta"), *inputs) == products
    assert parameters(module) == weights


def test_a_model_larger_than_the_memory_can_be_counted():
    with torch.device("meta"):
        giant = nn.Sequential(nn.Linear(10**6, 10**6), nn.GELU(), nn.Linear(10**6, 10))
    assert parameters(giant) == 10**12 + 10**6 + 10**7 + 10
    assert macs(giant, (4, 10**6)) == 4 * (10**12 + 10**7)


def test_shared_parameters_count_once_and_frozen_ones_not():
    shared = nn.Sequential(layer := nn.Linear(3, 3), layer, nn.Linear(3, 2).requires_grad_(False))
    assert parameters(shared) == 12
    assert macs(shared, (1, 3)) == 9 + 9 + 6


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.0, 6.0])
def test_an_exact_power_law_gives_its_exponent(power):
    sizes = [4, 8, 12, 40]
    fit = exponent(sizes, [3 * n**power for n in sizes])
    assert fit == pytest.approx((power, power, power, 3), abs=1e-6)


def test_the_interval_is_the_textbooks_and_holds_its_level():
    generator = np.random.default_rng(0)
    sizes = np.array([8, 16, 32, 64, 128.0])
    costs = sizes**1.5 * np.exp(0.1 * generator.standard_normal((400, 5)))
    inside = [fit.low <= 1.5 <= fit.high for fit in (exponent(sizes, row) for row in costs)]
    assert 0.91 <= np.mean(inside) <= 0.98
    best, covariance = curve_fit(lambda n, p, c: p * n + c, np.log(sizes), np.log(costs[0]))
    fit = exponent(sizes.tolist(), costs[0].tolist())
    half = 3.182446 * math.sqrt(covariance[0, 0])  # t of 3 degrees of freedom, two-sided 95 %
    assert fit == pytest.approx((best[0], best[0] - half, best[0] + half, math.exp(best[1])), rel=1e-5)


def test_the_table_counts_models_that_no_memory_could_hold():
    models = {"small": lambda: nn.Linear(3, 5), "huge": lambda: nn.Linear(10**6, 10**6, bias=False)}
    counted = table({"small": models["small"]}, (7, 3))
    assert counted.loc["small"].to_dict() == {"parameters": 20, "macs": 7 * 3 * 5}
    assert table({"huge": models["huge"]}, (1, 10**6)).loc["huge", "parameters"] == 10**12


REFUSED = [
    (lambda: exponent([1, 2], [1, 2]), ">= 3 points, got 2 sizes and 2 costs"),
    (lambda: exponent([1, 2, 3], [1, 2]), ">= 3 points, got 3 sizes and 2 costs"),
    (lambda: exponent([0, 1, 2], [1, 2, 3]), r"sizes must be finite and > 0, got \[0, 1, 2\]"),
    (lambda: exponent([1, 2, 3], [1, math.nan, 3]), "costs must be finite and > 0, got .*nan"),
    (lambda: exponent([1, 2, 3], [1, math.inf, 3]), "costs must be finite and > 0, got .*inf"),
    (lambda: exponent([2, 2, 2], [1, 2, 3]), r"sizes must differ, got \[2, 2, 2\]"),
    (lambda: macs(nn.Linear(2, 2), (0, 2)), r"a shape must be .*got \(0, 2\)"),
    (lambda: macs(nn.Linear(2, 2), (1.0, 2)), r"a shape must be .*got \(1\.0, 2\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
