"""Level sets: partners have the same values, lie elsewhere, and are nan where there is none."""

import pytest
import torch

from fourfold.level_sets import partner
from fourfold.training import stream

from .draws import normal


def test_partners_have_the_same_values_and_lie_elsewhere():
    points = normal(30, 3)
    found = partner(lambda x: x.square().sum()[None], points, stream(0, "x"))
    torch.testing.assert_close(found.norm(dim=1), points.norm(dim=1), rtol=0, atol=1e-9)
    assert float((found - points).norm(dim=1).min()) > 1e-2
    assert torch.equal(found, partner(lambda x: x.square().sum()[None], points, stream(0, "x")))


def test_a_function_that_names_every_point_has_no_partner_but_the_point():
    points = normal(10, 2, 2)
    found = partner(lambda x: torch.cat([x[0] + x[1], x[0] - x[1]]), points, stream(0, "x"))
    torch.testing.assert_close(found, points, rtol=0, atol=1e-8)


def test_what_is_not_found_is_nan():
    assert partner(lambda x: x.sum()[None].floor(), normal(4, 2), stream(0, "x"), 2).isnan().any()


def test_tries_must_be_one_or_more():
    with pytest.raises(ValueError, match="tries must be >= 1, got 0"):
        partner(lambda x: x, normal(1, 2), stream(0, "x"), 0)
