"""Matrices of the plane: closed forms are SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from fourfold.matrices import inverse, matrix, parts, rotation, shear, sinhc, sym_exp, sym_log, symmetric

from .draws import normal


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-4, 1e-3, 0.1, 1.0, 3.0])
def test_exponential_and_logarithm_are_scipys_and_inverse(scale):
    for x in symmetric(scale * normal(8, 3)):
        p = sym_exp(x)
        np.testing.assert_allclose(p, linalg.expm(x.numpy()), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sym_log(p), x, rtol=0, atol=1e-11)


def test_a_logarithm_has_no_step_where_its_series_ends():
    below, above = (
        sym_log(torch.diag(torch.tensor([1 + 2 * d, 1.0], dtype=torch.float64))) for d in (0.999e-3, 1.001e-3)
    )
    assert float((above - below)[0, 0]) == pytest.approx(4e-6, rel=0.01)


def test_sinhc():
    d = torch.tensor([0.0, 1e-8, 0.999e-3, 1.001e-3, 2.0], dtype=torch.float64)
    expected = [1.0, *(math.sinh(float(v)) / float(v) for v in d[1:])]
    torch.testing.assert_close(sinhc(d), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


def test_inverse_rotation_and_shear():
    g = normal(3, 5, 2, 2)
    torch.testing.assert_close(inverse(g), torch.linalg.inv(g), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        rotation(torch.tensor(math.pi / 2)).round() @ torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    )
    assert shear(0.2).tolist() == [[1, 0.2], [0, 1]]
    assert shear(0.2, 1).tolist() == [[1, 0], [0.2, 1]]


def test_coordinates_are_orthonormal_and_parts_are_eigenvalues():
    c = normal(6, 3)
    x = symmetric(c)
    torch.testing.assert_close(x.square().sum((1, 2)), c.square().sum(1))
    m, _, _, d = parts(x)
    torch.testing.assert_close(torch.stack([m - d, m + d], 1), torch.linalg.eigvalsh(x))
    torch.testing.assert_close(symmetric(c[:, :2]).diagonal(0, 1, 2).sum(1), torch.zeros(6).double())
    assert matrix(*torch.arange(4.0)).tolist() == [[0, 1], [2, 3]]
